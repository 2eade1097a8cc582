"""Files by their endings: one answer for a name, whoever asks, in capital letters or small ones."""

import ast
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import lrp_compiler as lrp
from lrp_compiler import formats
from lrp_compiler.base.errors import InputError
from lrp_compiler.check.runtimes import RUNTIMES, elsewhere
from lrp_compiler.cli import main
from lrp_compiler.formats import MODELS, OUTPUTS, ending_of, ends_in, reader_of, runtime_of, stem_of, writer_of
from lrp_compiler.onnx_in.read_file import is_onnx

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("write", [str, str.upper, str.title], ids=["small", "capital", "mixed"])
@pytest.mark.parametrize("ending", OUTPUTS)
def test_letters_make_no_difference(ending: str, write: Any) -> None:
    name = write(f"m.lrp{ending}")

    assert ending_of(name) == ending_of(Path("folder") / name) == ending
    assert runtime_of(name) == OUTPUTS[ending].runtime
    assert writer_of(name) is writer_of(f"m{ending}")
    assert is_onnx(name) == ends_in(name, ".onnx") == (ending == ".onnx")
    for runtime in RUNTIMES:
        if RUNTIMES[runtime].takes == ending:
            assert elsewhere(runtime, name) is RUNTIMES[runtime]


@pytest.mark.parametrize("ending", MODELS)
def test_a_model_is_read_by_its_ending(ending: str) -> None:
    assert reader_of(f"M{ending.upper()}") is reader_of(f"m{ending}")


def test_what_has_no_ending_that_is_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"^m\.txt must end in \.onnx or \.aoti\.pt2 or \.pt2\.$"):
        ending_of("m.txt")
    assert runtime_of("m.txt") == "torch"
    assert reader_of("m.txt") is reader_of("m.pt2")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b/m.lrp.onnx", "m"),
        ("m.onnx", "m"),
        ("M.LRP.PT2", "M"),
        ("m.lrp.aoti.pt2", "m"),
        ("m.v1.lrp.onnx", "m.v1"),
        ("m.lrp", "m"),
        ("m.txt", "m.txt"),
    ],
)
def test_a_file_has_the_name_of_its_model(path: str, stem: str) -> None:
    assert stem_of(path) == stem_of(Path(path)) == stem


def test_a_file_in_capital_letters_is_compiled_and_run(tmp_path: Path) -> None:
    """Both kinds of models, of the same layer."""
    model, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "M.PT2")
    weights = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in model.named_parameters()]
    x_info, y_info = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, s]) for n, s in (("x", 3), ("y", 2)))
    gemm = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    graph = helper.make_graph([gemm], "m", [x_info], [y_info], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "M.ONNX")
    (expected,) = lrp.compile(model, (x,))(x).relevance.values()

    for name in ("M.PT2", "M.ONNX"):
        assert main(["compile", str(tmp_path / name), "-o", str(tmp_path / "E.LRP.ONNX")]) == 0
        with lrp.OnnxExplainer(tmp_path / "E.LRP.ONNX") as runtime:
            (found,) = runtime(x.numpy()).relevance.values()
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)


def test_the_help_knows_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compile", "--help"])

    said = " ".join(capsys.readouterr().out.split())
    assert {ending for ending in OUTPUTS if f"M.lrp{ending}" not in said} == set()
    assert {ending for ending in MODELS if f"{ending} " not in said} == set()


def test_endings_stand_in_one_table() -> None:
    """No other file of the library spells them: constants stand for them."""
    known = {*OUTPUTS, *MODELS, *formats.EXPLANATIONS}
    known |= {formats.EXPLAINER + ending for ending in ("", *OUTPUTS)}
    spelled = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "lrp_compiler").rglob("*.py"))
        if path != Path(formats.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).lower() in known
    }

    assert spelled == set()
