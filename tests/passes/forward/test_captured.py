"""What a captured model is told of its outputs: those that are no tensors keep their places."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrp_compiler.passes.forward import Captured, Other

X = torch.ones(2)


def captured(function: Any, outputs: list[str], others: dict[int, Other]) -> Captured:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    program = torch.export.export(Net(), (X,))
    return Captured(program, {"x": "x"}, {}, outputs, ["x"], others)


@pytest.mark.parametrize(
    ("function", "others", "positions"),
    [
        (lambda x: (x, -x), {}, [0, 1]),
        (lambda x: (None, x, 3, -x), {0: Other("none", None), 2: Other("three", 3)}, [1, 3]),
        (lambda x: {"a": x, "rest": [-x, "text"]}, {2: Other("rest.1", "text")}, [0, 1]),
    ],
    ids=["tensors alone", "none and a number", "nested"],
)
def test_tensors_go_back_to_their_places(function: Any, others: dict[int, Other], positions: list[int]) -> None:
    known = captured(function, ["first", "second"], others)

    assert known.positions == positions
    assert known.structured(["one", "two"]) == _named(function(X))


def _named(tree: Any) -> Any:
    """The model's own output with names in place of its two tensors."""
    if isinstance(tree, Tensor):
        return "one" if torch.equal(tree, X) else "two"
    if isinstance(tree, dict):
        return {key: _named(value) for key, value in tree.items()}
    return type(tree)(map(_named, tree)) if isinstance(tree, list | tuple) else tree
