"""Caches are switched off by argument, by configuration, or left out of what is returned; the model stays as it is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class KeyCache:
    """As transformers' caches: no tensor, and of no class that torch knows."""

    def get_seq_length(self) -> int:
        return 0


class Decoder(nn.Module):
    """Has no argument for it, only a configuration."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(use_cache=True, text_config=SimpleNamespace(use_cache=True))
        self.linear, self.always = nn.Linear(4, 3), always

    def forward(self, *args: Tensor, **kwargs: Any) -> dict[str, Any]:
        cached = kwargs.get("use_cache", self.config.use_cache and self.config.text_config.use_cache) or self.always
        return {"logits": self.linear(args[0]), "past": KeyCache() if cached else None}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("always", [False, True], ids=["by configuration", "handed in from inside"])
def test_a_cache_is_left_out_and_the_model_stays_as_it_is(always: bool) -> None:
    model = Decoder(always).eval()
    explainer = lrp.compile(model, (X,), target=0, composite=lrp.composites.epsilon(0.0))

    torch.testing.assert_close(explainer(X).relevance["args_0"], X * model.linear.weight[0].detach())
    assert explainer(X).output["past"] is None
    assert [spec.name for spec in explainer.about.outputs] == ["logits"]
    assert model.config.use_cache
    assert model.config.text_config.use_cache
    assert isinstance(model(X)["past"], KeyCache)


def test_who_asks_for_a_cache_is_told_what_to_do() -> None:
    model = Decoder().eval()
    with pytest.raises(CaptureError, match=r"KeyCache.*use_cache=False"):
        lrp.compile(model, (X,), {"use_cache": True})
    assert model.config.use_cache
