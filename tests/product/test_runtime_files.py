"""Files that are no explainer, and the checks and errors that the runtime shares with the torch side."""

import pickle
from pathlib import Path

import pytest
import torch
from onnx import helper
from support.hand_made import X, doubler, entry, model_bytes

from lrp_compiler.base.errors import FormatError, InputError, UnsupportedOpError
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import bind, check, dtype_name
from lrp_compiler.runtime import OnnxExplainer


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent\.onnx\.$"):
        OnnxExplainer(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a sound ONNX file"),
        (b"\x89PNG\r\n\x1a\n, surely not an explainer", "not a sound ONNX file"),
        (doubler(schema=2), "written by a newer lrp_compiler .schema 2; this one reads 1"),
        (doubler(schema="one"), "names no schema"),
        (doubler(inputs="x"), "'inputs' is missing or of a wrong kind"),
        (doubler(inputs=[{"name": "x"}]), "describes a tensor incompletely"),
        (doubler(inputs=[{"name": "x", "shape": [None], "dtype": "float32"}]), "describes a tensor wrongly"),
        (doubler(inputs=[entry("z", X)]), "does not take the inputs that its metadata lists"),
        (doubler(outputs=[entry("z", X)]), "does not give the outputs that its metadata lists"),
        (doubler(relevance=[entry("relevance.x", X)]), "a relevance does not name its input"),
    ],
)
def test_a_file_that_is_no_explainer_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        OnnxExplainer(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "not written by lrp_compiler"), ('{"schema": 1', "metadata .* is damaged"), ("[]", "names no schema")],
)
def test_metadata_that_is_absent_or_broken_is_refused(metadata: str | None, message: str, tmp_path: Path) -> None:
    x, y = entry("x", X), entry("y", X)
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes([helper.make_node("Mul", ["x", "two"], ["y"])], [x], [y], metadata))
    with pytest.raises(FormatError, match=message) as caught:
        OnnxExplainer(path)
    assert "m.onnx" in str(caught.value)


@pytest.mark.slow
def test_a_file_cut_off_anywhere_is_refused() -> None:
    content = doubler()
    for length in range(len(content)):
        with pytest.raises(FormatError):
            OnnxExplainer(content[:length])


def test_damage_anywhere_is_refused_or_harmless() -> None:
    content = doubler()
    for position in range(len(content)):
        damaged = content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
        # Some bytes hold nothing that matters, such as a letter in the graph's name.
        try:
            OnnxExplainer(damaged)
        except FormatError:
            continue


def test_validation_takes_torch_tensors_too() -> None:
    specs = [TensorSpec("ids", ("batch", "sequence"), "int64"), TensorSpec("mask", ("batch", "sequence"), "float32")]
    bound = bind(specs, [torch.zeros(2, 5, dtype=torch.int32)], {"mask": torch.ones(2, 5)})
    assert dtype_name(bound["mask"]) == "float32"
    assert check(specs, bound) == {"batch": 2, "sequence": 5}
    with pytest.raises(InputError, match="'mask' has dtype float64"):
        check(specs, bound | {"mask": bound["mask"].double()})
    with pytest.raises(InputError, match="'mask' holds NaN"):
        check(specs, bound | {"mask": bound["mask"] * torch.nan}, has_nan=lambda tensor: bool(tensor.isnan().any()))


def test_unsupported_ops_are_all_listed_with_the_way_to_register_a_rule() -> None:
    error = UnsupportedOpError(
        [
            ("aten.cumprod.default", "cumprod", "mixer", "model.py:12: return x.cumprod(0)"),
            ("aten.cumprod.default", "cumprod_1", "", ""),
            ("mylib.foo.default", "foo", "head", ""),
        ]
    )
    assert pickle.loads(pickle.dumps(UnsupportedOpError(error.nodes, "Try this."))).advice == "Try this."
    assert str(UnsupportedOpError(error.nodes[:1], "Try this.")).splitlines()[2] == "Try this."
    assert str(error).splitlines() == [
        "3 nodes have no relevance rule:",
        "  aten.cumprod.default: node cumprod in mixer, model.py:12: return x.cumprod(0)",
        "  aten.cumprod.default: node cumprod_1",
        "  mylib.foo.default: node foo in head",
        "Register a rule for each op, then compile again:",
        "  @lrp.rule(torch.ops.aten.cumprod.default)",
        "  @lrp.rule(torch.ops.mylib.foo.default)",
        "  def rule(op, relevance):",
        "      # One operand, element by element: it gets what arrives. Of several: a dict, name -> relevance.",
        "      return lrp.total(op.total(relevance))",
    ]
    assert pickle.loads(pickle.dumps(error)).nodes == error.nodes
