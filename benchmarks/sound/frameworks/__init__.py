"""Networks made by other frameworks, as ONNX files, beside what these frameworks themselves say of them."""
