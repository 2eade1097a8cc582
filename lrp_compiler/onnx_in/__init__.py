"""ONNX files in: an ONNX graph becomes a module that torch.export takes."""

from .module import OnnxModule, from_onnx
from .parity import check_parity, overflows
from .read_file import is_onnx

__all__ = ["OnnxModule", "check_parity", "from_onnx", "is_onnx", "overflows"]
