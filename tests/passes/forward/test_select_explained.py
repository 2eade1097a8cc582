"""`wrt`: relevance of inputs, parameters and modules' values."""

from pathlib import Path

import pytest
import torch
from support.called_twice import ARGS, NET, Net
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, stride=2, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu()).relu().sum((2, 3))


torch.manual_seed(0)
CONV = Conv().double().eval()
for tensor in (CONV.norm.running_mean, CONV.norm.running_var, CONV.norm.weight, CONV.norm.bias):
    tensor.data.uniform_(0.5, 1.5)
X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


def relevance(*wrt: str, composite: str = "attnlrp") -> dict[str, Tensor]:
    return lrp.compile(NET, ARGS, composite=composite, target=1, wrt=wrt or None)(*ARGS).relevance


def test_leaving_an_input_out_changes_nothing_for_the_others() -> None:
    both = relevance()

    assert set(both) == {"ids", "scale"}
    for name in both:
        alone = relevance(name)
        assert set(alone) == {name}
        torch.testing.assert_close(alone[name], both[name], rtol=0, atol=0)


def test_a_single_name_needs_no_list() -> None:
    found = lrp.compile(NET, ARGS, composite="attnlrp", target=1, wrt="scale")(*ARGS).relevance

    assert list(found) == ["scale"]
    torch.testing.assert_close(found["scale"], relevance("scale")["scale"], rtol=0, atol=0)


def test_values_that_leave_a_module_are_named_by_its_calls() -> None:
    found = relevance("block", "embed", "ids")

    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "block": (2, 5, 6),
        "block@1": (2, 5, 6),
        "embed": (2, 5, 6),
        "ids": (2, 5),
    }
    torch.testing.assert_close(found["embed"].sum(-1), found["ids"])


def test_relevance_of_a_value_is_that_of_the_rest_of_the_network_fed_with_it() -> None:
    ids, scale = ARGS
    between = NET.block(NET.embed(ids) * scale + NET.place).detach()

    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.out = NET.block, NET.out

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.block(x).mean(1))

    rest = lrp.compile(Rest().eval(), (between,), composite="attnlrp", target=1)(between).relevance["x"]

    torch.testing.assert_close(relevance("block")["block"], rest)


def test_a_table_gets_by_row_what_its_places_get() -> None:
    found = relevance("embed.weight", "embed")
    by_row = torch.zeros(11, 6, dtype=torch.float64).index_add(0, ARGS[0].flatten(), found["embed"].flatten(0, 1))

    torch.testing.assert_close(found["embed.weight"], by_row)


@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
def test_parameters_that_are_added_get_what_is_absorbed_by_them(composite: str) -> None:
    found = relevance("place", "out.bias", composite=composite)
    books = lrp.compile(NET, ARGS, composite=composite, target=1).audit(*ARGS)
    absorbed = {entry.node: entry.absorbed for entry in books.entries}

    assert found["place"].shape == (1, 1, 6)
    assert found["place"].sum().item() == pytest.approx(absorbed["add"]["constant"])
    assert found["out.bias"].sum().item() == pytest.approx(absorbed["linear_2"]["bias"])
    torch.testing.assert_close(found["out.bias"][[0, 2, 3]], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "epsilon-alpha2-beta1-flat", "attnlrp-gamma"])
def test_a_weight_gets_what_flows_through_it(composite: str) -> None:
    """Σ over a layer's weights = Σ over its input: the same messages, added up another way."""
    explainer = lrp.compile(
        CONV, (X,), composite=composite, target=1, wrt=["x", "first.weight", "second.weight", "first"]
    )
    found = explainer(X).relevance

    assert found["first.weight"].shape == CONV.first.weight.shape
    assert found["second.weight"].shape == CONV.second.weight.shape
    torch.testing.assert_close(found["first.weight"].sum(), found["x"].sum())
    # By output channel: the class's own group alone.
    assert found["second.weight"][[0, 2, 3]].eq(0).all()


def test_a_pruned_weight_has_no_relevance() -> None:
    pruned = Conv().double().eval()
    with torch.no_grad():
        pruned.first.weight[2] = 0
        pruned.norm.running_mean.zero_()
    found = lrp.compile(pruned, (X,), composite="epsilon", target=1, wrt=["first.weight"])(X).relevance

    assert found["first.weight"][2].eq(0).all()
    assert found["first.weight"][[0, 1, 3]].abs().sum() > 0


def test_a_batch_norm_that_is_asked_for_is_explained_by_itself() -> None:
    """ε → 0: each share is parameter × gradient; the bias's is that of all that the norm adds."""
    composite = lrp.composites.attnlrp(epsilon=1e-12)
    found = lrp.compile(CONV, (X,), composite=composite, target=1, wrt=["norm.weight", "norm.bias", "x"])(X).relevance
    norm = CONV.norm
    scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach().view(1, -1, 1, 1).requires_grad_()
    shift = (norm.bias - norm.running_mean * scale.detach().flatten()).detach().view(1, -1, 1, 1).requires_grad_()
    x = X.clone().requires_grad_()
    logit = CONV.second((CONV.first(x) * scale + shift).relu()).relu().sum((2, 3))[:, 1].sum()

    gradients = torch.autograd.grad(logit, (scale, shift, x))

    want = [tensor * gradient for tensor, gradient in zip((scale, shift, x), gradients, strict=True)]
    for name, value in zip(("norm.weight", "norm.bias", "x"), want, strict=True):
        torch.testing.assert_close(found[name], value.reshape(found[name].shape), rtol=1e-7, atol=1e-9)
    (of_module,) = lrp.compile(CONV, (X,), composite=composite, target=1, wrt="norm")(X).relevance.values()
    torch.testing.assert_close(of_module.sum((0, 2, 3)), found["norm.weight"] + found["norm.bias"])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight
        self.again = self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.again(self.inner(self.table(ids).mean(1))))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("names", [("table.weight", "head.weight"), ("inner.weight", "again.weight")])
def test_a_tied_weight_goes_by_each_of_its_names(names: tuple[str, str], strict: bool | None) -> None:
    """The sum over its uses; by autograd on what is in truth one tensor. From a module, and from exported programs."""
    model, ids = Tied().double().eval(), torch.tensor([[1, 2, 3], [4, 4, 0]])
    program = model if strict is None else torch.export.export(model, (ids,), strict=strict)
    parameter = model.get_parameter(names[0])
    (gradient,) = torch.autograd.grad(model(ids)[:, 2].sum(), parameter)

    for name in names:
        options = {"composite": lrp.composites.attnlrp(epsilon=1e-12), "target": 2, "wrt": name}
        found = lrp.compile(program, (ids,) if strict is None else (), **options)(ids).relevance

        assert list(found) == [name]
        torch.testing.assert_close(found[name], parameter * gradient, rtol=1e-7, atol=1e-10)


def test_both_names_of_a_tied_weight_at_once() -> None:
    model, ids = Tied().double().eval(), torch.tensor([[1, 2, 3]])

    found = lrp.compile(model, (ids,), target=2, wrt=["table.weight", "head.weight"])(ids).relevance

    assert found["table.weight"].any()
    torch.testing.assert_close(found["table.weight"], found["head.weight"])


def test_parameters_and_modules_travel_in_files(tmp_path: Path) -> None:
    single = Net().eval()
    args = (ARGS[0], ARGS[1].float())
    dims = {0: torch.export.Dim("batch")}
    explainer = lrp.compile(
        single, args, composite="attnlrp", wrt=["block", "out.weight", "ids"], dynamic_shapes=(dims, dims)
    )
    expected = explainer(*args).relevance
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    loaded = lrp.load(tmp_path / "m.lrp.pt2")(*args).relevance
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
        ours = runtime(*(arg.numpy() for arg in args)).relevance

    assert list(loaded) == list(ours) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(loaded[name], value)
        torch.testing.assert_close(torch.from_numpy(ours[name]), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "word"),
    [("nothing", "no module"), ("block.dens", r"no module that computes anything; near it: block\.dense")],
)
def test_an_unknown_name_is_refused(name: str, word: str) -> None:
    model, args = NET, ARGS
    with pytest.raises(InputError, match=word):
        lrp.compile(model, args, wrt=[name])


def test_a_value_that_relevance_does_not_reach_is_refused() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x.masked_fill(mask, 0.0)

    args = (torch.randn(2, 3), torch.rand(2, 3) > 0.5)
    with pytest.raises(InputError, match="takes no relevance from it"):
        lrp.compile(Masked().eval(), args, wrt=["mask"])
