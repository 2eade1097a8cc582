"""A mask of heads means the same under every composite, whether it holds attention's pattern fixed or not."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(3)


class Attention(nn.Module):
    """Two heads of four features each, and a sum over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        read = torch.softmax(query @ key.transpose(2, 3) / 2, -1) @ value
        return self.out(read.transpose(1, 2).flatten(2)).sum(1)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
def test_a_mask_of_heads(composite: str) -> None:
    torch.manual_seed(0)
    model, x = Attention().double().eval(), torch.randn(2, 5, 8).double()
    masked = lrp.compile(model, (x,), composite=composite, target=1, masks="matmul_1")
    one = Attention().double().eval()
    one.load_state_dict(model.state_dict())
    one.out.weight.data[:, 4:] = 0  # the second head is not read

    found = masked(x, masks={"matmul_1": [[1, 0], [1, 0]]}).relevance["x"]

    expected = lrp.compile(one, (x,), composite=composite, target=1)(x).relevance["x"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
