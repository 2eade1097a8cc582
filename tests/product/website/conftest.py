"""What a site is made from."""

from pathlib import Path

import pytest
from support.sites import picture_explainer, text_explainer

from lrp_compiler.website.page import ONNXRUNTIME_WEB, TOKENIZERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two explainers, a tokenizer, a picture, and the two packages of npm, all but empty."""
    (tmp_path / "picture.lrp.onnx").write_bytes(picture_explainer())
    (tmp_path / "text.lrp.onnx").write_bytes(text_explainer())
    (tmp_path / "tokenizer.json").write_text('{"model": {}, "truncation": {"max_length": 16}}', encoding="utf-8")
    (tmp_path / "A cat.JPG").write_bytes(b"picture")
    for name, package in {"ort": ONNXRUNTIME_WEB, "tokenizers": TOKENIZERS}.items():
        for path in package.files:
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text("export {};", encoding="utf-8")
    return tmp_path
