"""Dictionaries in the graph: the model's values stay, and what is spliced in is what encode and decode say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.forward import splice_dictionaries
from lrp_compiler.passes.graph import canonicalise, copied, module_path


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.act, self.classes = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.act(self.hidden(x)))


class Dictionary:
    """Six features, biases on both ways."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.into, self.back = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 6), (6, 4))
        )
        self.offset = torch.randn(4, generator=generator, dtype=torch.float64)

    def encode(self, x: Tensor) -> Tensor:
        return ((x - self.offset) @ self.into).relu()

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.back + self.offset


NET = Net().double().eval()
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DICTIONARY = Dictionary()


Splice = Callable[..., fx.GraphModule]


@pytest.fixture(scope="module")
def exported(graph_of: Callable) -> fx.GraphModule:
    module = graph_of(NET, X[:2], dynamic=True)
    canonicalise(module)
    return module


@pytest.fixture
def spliced(exported: fx.GraphModule) -> Splice:
    """The graph with a dictionary in it."""

    def make(path: str = "act", dictionary: Any = DICTIONARY) -> fx.GraphModule:
        module = copied(exported)
        splice_dictionaries(module, {path: dictionary})
        return module

    return make


@pytest.fixture(scope="module")
def done(exported: fx.GraphModule) -> fx.GraphModule:
    """Behind the activation, once for those that look at it."""
    module = copied(exported)
    splice_dictionaries(module, {"act": DICTIONARY})
    return module


def leaving(module: fx.GraphModule, path: str) -> Tensor:
    """The last value in a module, of `X`."""
    found: dict[str, Any] = {}

    class Recording(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function":
                found[module_path(n)] = value
            return value

    Recording(module).run(X)
    return found[path]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_models_values_stay_what_they_are(done: fx.GraphModule) -> None:
    close(done(X)[0], NET(X))


def test_features_approximation_and_remainder_are_values_of_the_graph(done: fx.GraphModule) -> None:
    value = NET.act(NET.hidden(X))
    features = DICTIONARY.encode(value)
    close(leaving(done, "act.features"), features)
    close(leaving(done, "act.approximation"), features @ DICTIONARY.back)  # without decode(0)
    close(leaving(done, "act.remainder"), value - features @ DICTIONARY.back)


def test_what_reads_the_value_reads_the_sum_and_nothing_else(spliced: Splice) -> None:
    """So that a change of the features changes what follows."""

    class Blind(Dictionary):
        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x) * 0

    module = spliced(dictionary=Blind())
    (relu,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)[:1]
    readers = {module_path(user) for user in relu.users}
    assert readers == {"act.features", "act.remainder"}
    close(leaving(module, "act.remainder"), NET.act(NET.hidden(X)))


def test_a_tensor_of_both_ways_has_one_node(done: fx.GraphModule) -> None:
    held = [getattr(done, str(node.target)) for node in done.graph.find_nodes(op="get_attr")]
    assert len([one for one in held if one.data_ptr() == DICTIONARY.into.data_ptr()]) == 1
    assert len([one for one in held if one.data_ptr() == DICTIONARY.offset.data_ptr()]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", ["hidden", "classes"])
def test_any_module_may_have_one(path: str, spliced: Splice) -> None:
    class Same:
        def encode(self, x: Tensor) -> Tensor:
            return torch.cat([x.relu(), (-x).relu()], -1)

        def decode(self, features: Tensor) -> Tensor:
            plus, minus = features.chunk(2, -1)
            return plus - minus

    module = spliced(path, Same())

    close(module(X)[0], NET(X))
    assert leaving(module, f"{path}.remainder").eq(0).all()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.act(x) - 1)


def with_(**methods: Callable[[Tensor], Any]) -> Any:
    known = {"encode": torch.relu, "decode": lambda features: features * 2, **methods}
    return type("Given", (), {name: staticmethod(method) for name, method in known.items()})()


def fails(x: Tensor) -> Tensor:
    raise ValueError("nothing of this kind")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "dictionary", "words"),
    [
        ("acts", DICTIONARY, "'acts', which is no module that computes anything; near it: .*act"),
        ("act", with_(encode=fails), "fails on the value there: .*nothing of this kind"),
        ("act", with_(decode=fails), "fails on the value there: .*nothing of this kind"),
        ("act", with_(encode=lambda x: (x, x)), "returns tuple, no tensor of floats"),
        ("act", with_(encode=lambda x: x.argmax(-1)), "no tensor of floats"),
        ("act", with_(decode=lambda features: features[..., :3]), r"makes \[.*, 3\] of a value of shape \[.*, 4\]"),
        ("act", with_(encode=lambda x: x), "hands back what it is given"),
        ("act", with_(encode=lambda x: x.argmax(-1)), "returns a tensor of torch.int64, no tensor of floats"),
        ("act", with_(decode=torch.ones_like), "makes the same of every value: nothing of it is explained"),
        ("act", with_(encode=lambda x: x.float()), "makes torch.float32 of a value of torch.float64: bring it to this"),
    ],
)
def test_what_is_no_dictionary_of_the_value_is_refused(path: str, dictionary: Any, words: str, spliced: Splice) -> None:
    with pytest.raises(InputError, match=words):
        spliced(path, dictionary)


def test_a_module_that_is_called_twice_has_no_one_value(graph_of: Callable) -> None:
    with pytest.raises(InputError, match="exactly one value of floats leaves, once"):
        splice_dictionaries(graph_of(Twice(), X), {"act": DICTIONARY})
