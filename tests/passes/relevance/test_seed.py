"""What relevance starts from: one row for each thing that is explained, by hand."""

from typing import Any

import pytest
import torch
from support.assigned import captured
from torch import Tensor, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.forward import Target
from lrp_compiler.passes.relevance.seed import Seed, SeedMode, seed_relevance

Z = torch.tensor([[1.0, 5.0, 3.0], [4.0, 4.0, 0.0]], dtype=torch.float64)
PER_ROW = torch.tensor([2, 0])
FIRST, SECOND, THIRD = [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]
CASES: dict[str, tuple[Any, dict[str, Tensor], list[Any]]] = {
    "a class": (1, {}, [SECOND, SECOND]),
    "the largest, the first one of equals": ("argmax", {}, [SECOND, FIRST]),
    "a class of each row": ("index", {"target": PER_ROW}, [THIRD, FIRST]),
    "a pair": ((2, 0), {}, [[-1.0, 0, 1], [-1.0, 0, 1]]),
    "a pair of one class": ((1, 1), {}, [[0, 0, 0], [0, 0, 0]]),
    "several": ([0, (1, 2)], {}, [[FIRST, FIRST], [[0, 1.0, -1], [0, 1.0, -1]]]),
    "one in a list": ([2], {}, [[THIRD, THIRD]]),
    "several of each row": (
        Target("index", count=2),
        {"target": torch.tensor([[2, 0], [1, 1]])},
        [[THIRD, FIRST], [SECOND, SECOND]],
    ),
}


@pytest.mark.parametrize("mode", ["value", "one"])
@pytest.mark.parametrize("name", CASES)
def test_ones_stand_where_something_is_explained(name: str, mode: SeedMode) -> None:
    target, given, expected = CASES[name]

    found = seed_relevance(Z, Seed(target, mode), given)

    assert found.tensor.tolist() == expected
    assert found.tensor.dtype == torch.float64
    assert found.form == ("unit" if mode == "value" else "total")


def test_the_value_itself_is_what_ones_in_unit_form_mean() -> None:
    found = seed_relevance(Z, Seed("argmax"), {})

    assert found.total_of(lambda: Z).tolist() == [[0, 5, 0], [4, 0, 0]]


def test_a_tensor_is_taken_as_it_is() -> None:
    given = torch.randn(2, 3, dtype=torch.float64)

    found = seed_relevance(Z, Seed("argmax", "tensor"), {"seed": given})

    assert found.tensor is given
    assert found.form == "total"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_it_has_the_precision_of_what_is_explained(dtype: torch.dtype) -> None:
    for target in (1, "argmax", (0, 1), [0, 2]):
        assert seed_relevance(Z.to(dtype), Seed(target), {}).tensor.dtype == dtype


@pytest.mark.parametrize(
    ("seed", "inputs", "reads"),
    [
        (Seed(1), (), False),
        (Seed((0, 1)), (), False),
        (Seed([0, 2], "one"), (), False),
        (Seed("argmax"), (), True),
        (Seed("argmax", "one"), (), True),
        (Seed("index"), ("target",), False),
        (Seed(Target("index", count=3), "one"), ("target",), False),
        (Seed("argmax", "tensor"), ("seed",), False),
        (Seed("index", "tensor"), ("seed",), False),
    ],
    ids=lambda value: f"{value.target}, {value.mode}" if isinstance(value, Seed) else None,
)
def test_it_says_what_it_needs(seed: Seed, inputs: tuple[str, ...], reads: bool) -> None:
    assert (seed.inputs, seed.reads_value) == (inputs, reads)


def test_plain_classes_are_a_target() -> None:
    assert Seed(3).target == Target(3)
    assert Seed(Target("argmax", position=2)).target.position == 2
    assert Seed([0, (1, 2)]) == Seed(Target([0, (1, 2)]))
    with pytest.raises(InputError, match=r"^Unknown target 'largest'"):
        Seed("largest")


@pytest.mark.parametrize(
    ("seed", "lead", "dims", "dtype"),
    [
        (Seed("index"), (), 1, torch.int64),
        (Seed(Target("index", count=3)), (3,), 1, torch.int64),
        (Seed("argmax", "tensor"), (), 2, torch.float64),
        (Seed([0, (1, 2)], "tensor"), (2,), 2, torch.float64),
    ],
    ids=lambda value: f"{value.target}, {value.mode}" if isinstance(value, Seed) else "",
)
def test_its_run_time_input_fits_any_batch_size(
    seed: Seed, lead: tuple[int, ...], dims: int, dtype: torch.dtype
) -> None:
    module = captured(nn.Linear(4, 3).double(), torch.zeros(2, 4, dtype=torch.float64))
    explained = module.graph.output_node().args[0][0].meta["val"]

    placeholder = seed.placeholder(explained)

    assert placeholder.shape == (*lead, *explained.shape[:dims])
    assert isinstance(placeholder.shape[len(lead)], torch.SymInt)
    assert placeholder.dtype == dtype
    assert placeholder.fake_mode is explained.fake_mode
