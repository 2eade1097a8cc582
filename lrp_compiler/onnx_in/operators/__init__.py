"""What each ONNX operator calculates, one family a file; a file that is put here is found by itself."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
