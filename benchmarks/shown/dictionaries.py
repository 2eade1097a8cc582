"""A dictionary of a layer's values, trained here: a sparse autoencoder with the k largest features of each value.

Source: Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093 (TopK; the decoder's directions have
length one, the encoder starts as its transpose).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCH, RATE, SEED = 1024, 1e-3, 0


class TopK(nn.Module):
    """`features` directions of a value `[…, size]`, of which the `k` largest speak.

    Args:
        size: of the value.
        features: how many there are.
        k: how many are not zero.
    """

    def __init__(self, size: int, features: int, k: int) -> None:
        super().__init__()
        self.k = k
        directions = nn.functional.normalize(torch.randn(size, features), dim=0)
        self.into, self.back = nn.Linear(size, features), nn.Linear(features, size)
        with torch.no_grad():
            self.back.weight.copy_(directions)
            self.into.weight.copy_(directions.T)
            self.into.bias.zero_()

    def encode(self, x: Tensor) -> Tensor:
        every = self.into(x - self.back.bias).relu()
        values, places = every.topk(self.k, -1)
        return torch.zeros_like(every).scatter(-1, places, values)

    def decode(self, features: Tensor) -> Tensor:
        return self.back(features)


def trained(values: Tensor, features: int, k: int, epochs: int, told: Callable[[str], None]) -> TopK:
    """One that is trained on values `[tokens, size]`; seeded."""
    torch.manual_seed(SEED)
    dictionary = TopK(values.shape[1], features, k)
    with torch.no_grad():
        dictionary.back.bias.copy_(values.mean(0))
    optimiser = torch.optim.Adam(dictionary.parameters(), RATE)
    spread = (values - values.mean(0)).square().sum(1).mean()
    for epoch in range(epochs):
        for rows in torch.randperm(len(values)).split(BATCH):
            x = values[rows]
            loss = (dictionary.decode(dictionary.encode(x)) - x).square().sum(1).mean() / spread
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                dictionary.back.weight.copy_(nn.functional.normalize(dictionary.back.weight, dim=0))
        told(f"train the dictionary: epoch {epoch + 1} of {epochs}, {loss.item():.1%} missed")
    return dictionary.eval()
