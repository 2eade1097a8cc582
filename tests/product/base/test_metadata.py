"""Metadata that somebody has edited, and sealed again: every reader takes it as it is, or refuses it in a sentence."""

import copy
import json
import math
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.artefacts import tiny
from support.sealed import reseal_zip, save_sealed

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError, InternalError, LrpError
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.base.metadata_reading import read_metadata
from lrp_compiler.check.verify import verify
from lrp_compiler.runtime import OnnxExplainer

ODD = [None, True, False, -1, 0, math.inf, math.nan, 10**30, "", "x", [], {}, [0, "batch"], {"a": 1}, ["batch"], [[[]]]]
X, TARGET = torch.ones(2, 4), torch.tensor([0, 1])


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all parts of plain data."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from paths(value[key], (*path, key))


def edited(plain: Any, draw: random.Random) -> tuple[Any, str]:
    """A part taken away, added to, or replaced; and what was done."""
    changed, path = copy.deepcopy(plain), draw.choice(list(paths(plain)))
    at = changed
    for key in path[:-1]:
        at = at[key]
    odd = draw.choice(ODD)
    if draw.random() > 0.2:
        at[path[-1]] = odd
    elif isinstance(at, dict):
        odd = at.pop(path[-1])
    else:
        at.insert(0, odd)
    return changed, f"{path}: {odd!r}"


def raised_by(job: Callable[[], object]) -> str:
    """What a job raises that is no sentence about the file; "" if that is nothing."""
    try:
        job()
    except InternalError as defect:
        return str(defect)
    except LrpError as error:
        return "" if "\n" not in str(error) else str(error)
    except Exception as error:
        return repr(error)
    return ""


def faults(folder: Path, count: int, seed: int) -> list[tuple[str, str]]:
    tiny().to_onnx(folder / "m.lrp.onnx")
    tiny().save(folder / "m.lrp.pt2")
    model, draw, found = onnx.load(folder / "m.lrp.onnx"), random.Random(seed), []
    with zipfile.ZipFile(folder / "m.lrp.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(count):
        plain, what = edited(tiny().metadata, draw)
        text = json.dumps(plain)
        other = copy.deepcopy(model)
        next(entry for entry in other.metadata_props if entry.key == METADATA_KEY).value = text
        save_sealed(other, folder / "edited.lrp.onnx")
        with zipfile.ZipFile(folder / "edited.lrp.pt2", "w") as archive:
            for name, content in {**members, f"archive/extra/{METADATA_KEY}": text.encode()}.items():
                archive.writestr(name, content)
        reseal_zip(folder / "edited.lrp.pt2")
        jobs: list[Callable[[], object]] = [
            lambda: OnnxExplainer(folder / "edited.lrp.onnx")(X.numpy(), target=TARGET.numpy()).explained(),
            lambda: lrp.load(folder / "edited.lrp.pt2")(X, target=TARGET).explained(),
            lambda: verify(folder / "edited.lrp.onnx"),
            lambda: verify(folder / "edited.lrp.pt2"),
        ]
        found += [(what, error) for error in map(raised_by, jobs) if error]
    return found


@pytest.mark.slow
def test_edited_metadata_is_read_or_refused(tmp_path: Path) -> None:
    assert faults(tmp_path, 15, seed=1) == []


@pytest.mark.heavy
def test_metadata_edited_a_thousand_times_is_read_or_refused(tmp_path: Path) -> None:
    assert faults(tmp_path, 1000, seed=2) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", "x"),
        ("classes", -1),
        ("rules", [{}]),
        ("rules", ["batch"]),
        ("sizes", {"batch": 10**30}),
        ("sizes", {"batch": "x"}),
        ("explains", {"count": 0}),
        ("explains", {"classes": []}),
        ("tolerance", math.inf),
        ("arguments", [3]),
    ],
)
def test_what_does_not_fit_is_named(key: str, value: Any) -> None:
    with pytest.raises(FormatError, match=f"'{key}' is missing or of a wrong kind"):
        read_metadata(json.dumps({**tiny().metadata, key: value}), "it")


def test_text_nested_too_deeply_is_damaged() -> None:
    with pytest.raises(FormatError, match="is damaged"):
        read_metadata("[" * 100_000, "it")


def test_dims_are_those_of_the_graph(tmp_path: Path) -> None:
    tiny().to_onnx(tmp_path / "m.lrp.onnx")
    model = onnx.load(tmp_path / "m.lrp.onnx")
    for place, sentence in (("inputs", "does not take the inputs"), ("outputs", "does not give the outputs")):
        for shape in (["batch"], ["batch", 9], "ab", [0, "batch", 4]):
            plain = copy.deepcopy(tiny().metadata)
            plain[place][0]["shape"] = shape
            other = copy.deepcopy(model)
            next(entry for entry in other.metadata_props if entry.key == METADATA_KEY).value = json.dumps(plain)
            save_sealed(other, tmp_path / "edited.lrp.onnx")
            with pytest.raises(FormatError, match=rf"{sentence}|describes a tensor wrongly"):
                OnnxExplainer(tmp_path / "edited.lrp.onnx")
    assert np.isfinite(OnnxExplainer(tmp_path / "m.lrp.onnx")(X.numpy(), target=TARGET.numpy()).output).all()
