"""The compile cache: whatever decides over a graph is seen, wherever it lies, though the example does not show it."""

import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import LrpError

pytestmark = pytest.mark.sampled(6)

NEAR = torch.tensor([[0.5, -1.0, 0.25, 1.0], [1.5, 0.5, -0.5, 2.0]])
FAR = 100 * NEAR

HELD = {
    "a function": "def limit(self): return bound()\ndef bound(): return LIMIT",
    "a dict": "HELD = {'a': LIMIT}\ndef limit(self): return HELD['a']",
    "a tensor": "HELD = torch.tensor(LIMIT)\ndef limit(self): return HELD",
    "an object": "class Held:\n    def __init__(self): self.a = LIMIT\nheld = Held()\ndef limit(self): return held.a",
    "a class": "class Held:\n    a = [LIMIT]\ndef limit(self): return Held.a[0]",
    "an enum": "class Held(enum.Enum):\n    A = LIMIT\ndef limit(self): return Held.A.value",
    "an attribute of a function": "def held(): return held.a\nheld.a = LIMIT\ndef limit(self): return held()",
    "a cached function": "@functools.cache\ndef held(): return LIMIT\ndef limit(self): return held()",
    "a module": "by_hand_helper.bound = lambda: LIMIT\ndef limit(self): return by_hand_helper.bound()",
    "a cached property": "held = functools.cached_property(lambda self: LIMIT)\ndef limit(self): return self.held",
    "a partial method": "def given(self, a): return a\nlimit = functools.partialmethod(given, LIMIT)",
    "a descriptor": (
        "class Held:\n    def __init__(self): self.a = LIMIT\n    def __get__(self, *_): return self.a\n"
        "held = Held()\ndef limit(self): return self.held"
    ),
    "a class's dict": "held = {'a': LIMIT}\ndef limit(self): return self.held['a']",
    "a class's array": "held = np.array(LIMIT)\ndef limit(self): return float(self.held)",
    "a slot": "__slots__ = ('held',)\ndef limit(self):\n    return self.held",
    "a part that a pickle leaves out": "def limit(self): return self.part.a",
    "a method of another's": "def limit(self): return self.bound()",
    "a tensor that is read": "def limit(self): return float(self.plain)",
    "a tensor in a list that is read": "def limit(self): return self.several[0].item()",
    "a tensor that is listed": "def limit(self): return self.plain.tolist()",
}
OF_THE_CLASS = {"a cached property", "a partial method", "a descriptor", "a class's dict", "a class's array", "a slot"}
SOURCE = """
import enum, functools, types
import numpy as np, torch, by_hand_helper
from torch import nn

class Part:
    def __getstate__(self): return {}

def bounded(value):
    return lambda self: value

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3)
    def forward(self, x):
        return self.map(x.clamp(max=self.limit()))
"""


def clamping(what: str, limit: float) -> nn.Module:
    """A model that holds the limit of its clamp there; of the same name and source whatever the limit is."""
    module: Any = types.ModuleType("by_hand")
    sys.modules["by_hand"] = module
    text = HELD[what].replace("LIMIT", str(limit))
    before, inside = ("", text) if what in OF_THE_CLASS else (text, "limit = limit")
    exec(f"{SOURCE}\n{before}\nclass Model(Base):\n{textwrap.indent(inside, '    ')}\n", vars(module))
    torch.manual_seed(0)
    model: Any = module.Model()
    if what == "a slot":
        type(model).held.__set__(model, limit)
    model.part = module.Part() if what.startswith("a part") else None
    if model.part is not None:
        model.part.a = limit
    if what == "a method of another's":
        model.bound = types.MethodType(module.bounded(limit), model)
    if "tensor" in what and "self" in HELD[what].rpartition("return")[2]:
        model.plain, model.several = torch.tensor(limit), [torch.tensor(limit)]
    return model.eval()


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """The names under which models are defined by hand."""
    sys.modules["by_hand_helper"] = types.ModuleType("by_hand_helper")
    yield
    for name in ("by_hand", "by_hand_helper"):
        sys.modules.pop(name, None)


def assert_as_afresh(model: nn.Module, folder: Path, **options: Any) -> None:
    found, fresh = (
        lrp.compile(model, (NEAR,), cache=folder, **options)(FAR),
        lrp.compile(model, (NEAR,), **options)(FAR),
    )
    assert torch.equal(found.output, fresh.output)
    assert torch.equal(found.relevance["x"], fresh.relevance["x"])


@pytest.mark.sampled(24)
@pytest.mark.parametrize("what", HELD)
def test_what_a_models_code_reads_is_seen(what: str, tmp_path: Path) -> None:
    lrp.compile(clamping(what, 50.0), (NEAR,), cache=tmp_path)

    assert_as_afresh(clamping(what, 5000.0), tmp_path)


def test_tensors_that_a_target_reads_are_seen(tmp_path: Path) -> None:
    def target(weights: Tensor) -> Any:
        return lambda logits: (logits * weights).sum(1)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    model = Model().eval()
    lrp.compile(model, (NEAR,), cache=tmp_path, target=target(torch.tensor([1.0, 2.0, 3.0, 4.0])))

    assert_as_afresh(model, tmp_path, target=target(torch.tensor([1.0, 2.0, 3.0, 5.0])))


@pytest.mark.parametrize("where", ["a class", "a function"])
def test_what_replaces_a_packages_own_code_is_seen(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Hardtanh(-50, 50), nn.Linear(4, 3)).eval()

    def replace(limit: float) -> None:
        if where == "a class":
            monkeypatch.setattr(nn.Hardtanh, "forward", lambda self, input: input.clamp(max=limit))
        else:
            monkeypatch.setattr(nn.functional, "hardtanh", lambda x, *given, **named: x.clamp(max=limit))

    def relevance(**options: Any) -> Tensor:
        (found,) = lrp.compile(model, (NEAR,), **options)(FAR).relevance.values()
        return found

    replace(50.0)
    before = relevance(cache=tmp_path)
    replace(5000.0)
    assert torch.equal(relevance(cache=tmp_path), relevance())
    assert not torch.equal(relevance(cache=tmp_path), before)


class Named(nn.Module):
    """A model with a part of that name, and without weights in it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.ReLU()})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


def test_the_modules_of_a_program_are_seen(tmp_path: Path) -> None:
    first, second = (torch.export.export(Named(name).eval(), (NEAR,)) for name in ("a", "b"))
    lrp.compile(first, cache=tmp_path)

    assert str(lrp.compile(second, cache=tmp_path).show()) == str(lrp.compile(second).show())


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_what_cannot_be_compiled_is_said_as_without_a_cache(tmp_path: Path) -> None:
    model = Drawing().eval()
    with pytest.raises(LrpError) as without:
        lrp.compile(model, (NEAR,))
    with pytest.raises(LrpError) as within:
        lrp.compile(model, (NEAR,), cache=tmp_path)

    assert str(within.value) == str(without.value)


SCRIPT = """
import time, sys
import torch
from torch import nn
import lrp_compiler as lrp
started = time.time()
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 3)
        self.kind = "b"
    def forward(self, x):
        return self.map(x) if self.kind in {"a", "b", "c", "d"} else x
stages = []
lrp.compile(Model().eval(), (torch.zeros(2, 4),), cache=sys.argv[1], progress=stages.append)
print(stages)
"""


@pytest.mark.heavy
def test_what_a_script_calculates_besides_does_not_count(tmp_path: Path) -> None:
    """Neither do the orders of sets, which differ between processes."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "cache"]
    said = [subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip() for _ in range(2)]

    assert len(said[0]) > len("['cache']")
    assert said[1] == "['cache']"
