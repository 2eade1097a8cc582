"""Files out: ONNX and AOTInductor."""
