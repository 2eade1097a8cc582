"""Names are where people look, and importing the package costs nothing of what they need."""

import inspect
import subprocess
import sys

import pytest

import lrp_compiler as lrp
from lrp_compiler import errors
from lrp_compiler.explanation import Explanation
from lrp_compiler.pictures import heatmap, image, layers, spectrogram, tokens


@pytest.mark.parametrize("name", lrp.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(lrp, name)

    assert name in dir(lrp)
    assert inspect.ismodule(value) or value.__name__ == name


@pytest.mark.parametrize("name", sorted({*errors.__all__} - {"UnsupportedNode"}))
def test_errors_are_caught_by_their_name(name: str) -> None:
    assert getattr(lrp, name) is getattr(errors, name)


def test_an_unknown_name_is_said_to_be_one() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'explian'"):
        _ = lrp.explian


def test_importing_it_imports_little() -> None:
    """What it takes is counted in modules, since time is the machine's: 16 ms on the one where this was written."""
    code = (
        "import sys; before = set(sys.modules); import lrp_compiler as lrp; lrp.LrpError, dir(lrp)\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"torch", "numpy", "onnx", "onnxruntime", "rich", "matplotlib"} & set(found)


@pytest.mark.parametrize(
    "draws", [heatmap.heatmap, image.image, tokens.tokens, spectrogram.spectrogram, layers.layers, layers.heads]
)
def test_pictures_take_what_their_functions_take(draws: object) -> None:
    """Spelled out in both places, so that an editor knows them: names, kinds and defaults."""
    wanted = [(p.name, p.kind, p.default) for p in inspect.signature(draws).parameters.values()][1:]
    method = getattr(Explanation, draws.__name__)

    assert [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()][1:] == wanted
