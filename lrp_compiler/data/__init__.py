"""Explain data sets: rows in, Parquet out, whatever their number. Torch-free; needs pyarrow, by the extra `data`.

    from lrp_compiler.data import explain

    explain("m.lrp.onnx", "photos/", "out/", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], crop=0.875)

A *source* hands out rows in order (`sources.py`), `Explain` makes a batch of rows a batch of explanations
(`engine.py`), a *sink* puts each shard to its place in one step (`sink.py`). `explain` ties them in this process, or
several. `summarise` reads what was written, and says what it has in common.
"""

from lrp_compiler.base.boundary import boundary

with boundary("explain data sets"):  # without pyarrow, one sentence
    from .engine import Explain
    from .job import Done, explain
    from .preparation import Preparation
    from .summarise import Summary, summarise

__all__ = ["Done", "Explain", "Preparation", "Summary", "explain", "summarise"]
