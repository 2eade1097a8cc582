"""Programs written out: what follows an op may rely on how its kernel lays out memory, and must not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.decompose import program as written
from lrp_compiler.passes.decompose import written_out

attend = functional.scaled_dot_product_attention
X = torch.randn(2, 4, 6, 8, dtype=torch.float64)


def heads_joined(x: Tensor) -> Tensor:
    return attend(x, x, x, is_causal=True).transpose(1, 2).contiguous().view(x.shape[0], 6, 32)


def heads_split_again(x: Tensor) -> Tensor:
    return attend(x, x, x).transpose(1, 2).contiguous().view(-1, 32).view(x.shape[0], 6, 8, 4)


def pooled(x: Tensor) -> Tensor:
    """Channels last stay so in the kernel."""
    x = functional.adaptive_max_pool2d(x.contiguous(memory_format=torch.channels_last), 3)
    return x.permute(0, 2, 3, 1).view(x.shape[0], -1, 4)


def normalised(x: Tensor) -> Tensor:
    return functional.group_norm(x.permute(0, 3, 1, 2).contiguous(), 2).permute(0, 2, 3, 1).reshape(-1).view(-1, 8)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("function", [heads_joined, heads_split_again, pooled, normalised], ids=lambda f: f.__name__)
def test_a_view_stands_behind_whatever_is_written_out(function: Callable[[Tensor], Tensor], graph_of: Callable) -> None:
    module = graph_of(function, X, dynamic=True)

    x = torch.randn(3, 4, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


def test_the_program_that_is_given_stays_as_it_is() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return heads_joined(x)

    program = torch.export.export(Flat(), (X,))
    before = str(program.graph)

    written_out(program)

    assert str(program.graph) == before
    torch.testing.assert_close(program.module()(X), heads_joined(X))


def test_an_input_may_be_called_like_a_builtin() -> None:
    class Flat(nn.Module):
        def forward(self, input: Tensor, id: Tensor) -> Tensor:
            return heads_joined(input) + heads_joined(id)

    program = written_out(torch.export.export(Flat(), (X, X * 2)))

    assert program.graph_signature.user_inputs == ("input", "id")
    torch.testing.assert_close(program.module()(X, X * 2), heads_joined(X) + heads_joined(X * 2))


@pytest.mark.slow
def test_a_size_that_must_be_known_does_not_stay_open_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the project's own ways to write an op out asks for a size; a user's may."""

    def by_rows(x: Tensor) -> Tensor:
        return torch.stack([x.select(2, row).clamp(min=0) for row in range(int(x.shape[2]))], 2)

    monkeypatch.setattr(written, "decomposition_table", lambda: {torch.ops.aten.relu.default: by_rows})
    x, shapes = torch.randn(2, 3, 7, 8), {"input": {0: torch.export.Dim("n"), 2: torch.export.Dim("h")}}
    program = torch.export.export(nn.ReLU(), (x,), dynamic_shapes=shapes)

    with pytest.raises(CaptureError, match=r"Dimension 2 of the input 'input' .* known size alone \(7 in"):
        written_out(program)


def test_a_write_into_overlapping_elements_is_refused() -> None:
    class Overlapping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unfold(-1, 2, 1).relu_().flatten(1)

    with pytest.raises(CaptureError, match="several elements are one place in memory"):
        written_out(torch.export.export(Overlapping(), (torch.randn(2, 6),)))


def test_what_is_put_into_a_number_stays_a_number() -> None:
    class Filled(nn.Module):
        def forward(self, x: Tensor, index: Tensor, value: Tensor) -> Tensor:
            return x.index_fill(0, index, value) * 2 + x.amax(0)

    given = torch.tensor(2.0), torch.tensor([0]), torch.tensor(0.5)
    program = written_out(torch.export.export(Filled(), given))

    assert float(program.module()(*given)) == 3.0
    assert float(program.module()(given[0], torch.tensor([0]), torch.tensor(1.5))) == 5.0
