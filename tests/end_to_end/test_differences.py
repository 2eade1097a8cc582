"""Composite "reference": what inputs get is the difference of two outputs, in torch, in files, however it is asked."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.faithful.differences import Rules, explain, exported
from benchmarks.faithful.training import vit
from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.networks.architectures.paper import FIFTEEN
from lrp_compiler.errors import CompositeError, InputError, LrpWarning
from lrp_compiler.runtime import OnnxExplainer

BATCH = {"x": {0: torch.export.Dim("batch", min=1)}}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


class Mixed(nn.Module):
    """Convolution, folded norm, pool; layer norm, attention, GELU, gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.norm, self.qkv, self.gate = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).flatten(2).mT
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        h = h + nn.functional.scaled_dot_product_attention(q, k, v) * torch.sigmoid(self.gate(h))
        h = h + self.mlp(self.norm(h))
        return self.head(h.amax(1) / (1 + h.abs().mean(1)))


class Texts(nn.Module):
    """Ids, a mask, an RMS norm, a log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embedding(ids)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        scores = (h @ h.mT).masked_fill(~mask[:, None, :].bool(), -torch.inf)
        h = (scores.softmax(-1) @ h) * mask[..., None]
        return self.head(h.sum(1)).log_softmax(-1)


def drawn(model: nn.Module) -> nn.Module:
    """In eval mode and float64, away from what initialisation leaves at 0 and 1."""
    model = model.eval().double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, lrp.Explainer]:
    torch.manual_seed(0)
    model = drawn(Mixed())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    return model, lrp.compile(model, (x,), composite="reference", dynamic_shapes=BATCH)


def pictures(batch: int, seed: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def risen(model: nn.Module, x: Tensor, there: Tensor) -> Tensor:
    """The difference of the logits of the class that x is put in."""
    with torch.no_grad():
        target = model(x).argmax(-1, keepdim=True)
        return (model(x) - model(there)).gather(1, target)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("reference", [None, 0.3, "one row", "each"])
def test_relevance_sums_to_the_difference_of_the_outputs(mixed: Any, reference: Any) -> None:
    model, explainer = mixed
    x, there = pictures(3, 1), pictures(3, 2)
    given = {"one row": there[:1], "each": {"x": there}}.get(reference, reference)
    at = {None: torch.zeros_like(x), 0.3: torch.full_like(x, 0.3), "one row": there[:1].expand_as(x)}.get(
        reference, there
    )

    found = explainer(x, reference=given)

    torch.testing.assert_close(found.relevance["x"].sum((1, 2, 3)), risen(model, x, at), **EXACT)


def test_the_books_balance_and_nothing_is_absorbed(mixed: Any) -> None:
    _, explainer = mixed

    books = explainer.audit(pictures(3, 1), reference=pictures(3, 2))

    assert not books.suspects(1e-12)
    assert all(abs(share) <= 1e-12 for share in books.absorbed.values())


def test_an_input_that_is_its_own_reference_gets_nothing(mixed: Any) -> None:
    x = pictures(2, 1)
    assert torch.equal(mixed[1](x, reference=x).relevance["x"], torch.zeros_like(x))


@pytest.mark.slow
def test_files_explain_the_same(tmp_path: Path) -> None:
    single = lrp.compile(drawn(Mixed()).float(), (pictures(2, 0).float(),), composite="reference", dynamic_shapes=BATCH)
    single.to_onnx(tmp_path / "m.lrp.onnx")
    single.save(tmp_path / "m.lrp.pt2")
    x, there = pictures(3, 1).float(), pictures(3, 2).float()

    wanted = single(x, reference=there)

    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    assert torch.equal(loaded(x, reference=there).relevance["x"], wanted.relevance["x"])
    assert abs(loaded.audit(x, reference=there).error) <= 1e-12
    session = OnnxExplainer(tmp_path / "m.lrp.onnx")
    for reference in (there.numpy(), 0.0, "blur", None):
        found = session(x.numpy(), reference=reference)
        again = single(x, reference=reference if not isinstance(reference, np.ndarray) else there)
        # Sums in another order: float32's rounding of values of about 1.
        np.testing.assert_allclose(found.relevance["x"], again.relevance["x"].numpy(), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_tokens_are_compared_with_another_token() -> None:
    torch.manual_seed(0)
    model = drawn(Texts())
    ids, mask = torch.randint(1, 30, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    shapes = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)} for name in ("ids", "mask")}
    explainer = lrp.compile(model, (ids, mask), composite="reference", dynamic_shapes=shapes)

    found = explainer(ids, mask, reference=0)

    with torch.no_grad():
        # The logit in front of the log-probability is what is explained.
        logits = [model(given, mask) for given in (ids, torch.zeros_like(ids))]
    assert found.relevance["ids"].shape == (2, 6)
    assert (found.relevance["ids"][1, 4:] == 0).all()
    assert torch.isfinite(found.relevance["ids"]).all()
    probability = lrp.compile(model, (ids, mask), composite="reference", target=lrp.Target("argmax", probability=True))
    of_logarithm = probability(ids, mask, reference={"ids": torch.zeros_like(ids)}).relevance["ids"].sum(1)
    wanted = (logits[0] - logits[1]).gather(1, logits[0].argmax(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(of_logarithm, wanted, **EXACT)
    with pytest.raises(InputError, match="mask or padding token"):
        explainer(ids, mask)
    for number in (2**63, 1e30):
        with pytest.raises(InputError, match="a whole number is wanted, as int64 has"):
            explainer(ids, mask, reference=number)


@pytest.mark.slow
def test_it_goes_with_all_that_explainers_do(mixed: Any) -> None:
    model, _ = mixed
    x, there = pictures(2, 1), pictures(2, 2)

    several = lrp.compile(model, (x,), composite="reference", target=[0, 3])(x, reference=there)
    reduced = lrp.compile(model, (x,), composite="reference", target=1, reduce="channels")(x, reference=there)
    inside = lrp.compile(model, (x,), composite="reference", target=1, observe="stem")(x, reference=there)

    with torch.no_grad():
        wanted = model(x) - model(there)
    torch.testing.assert_close(several.relevance["x"].sum((2, 3, 4)).T, wanted[:, [0, 3]], **EXACT)
    torch.testing.assert_close(reduced.sums["x"], wanted[:, 1], **EXACT)
    torch.testing.assert_close(reduced.sums["absorbed"], torch.zeros(2, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(inside.relevance["stem"].flatten(1).sum(1), wanted[:, 1], **EXACT)


def test_what_cannot_be_is_said_in_a_sentence(mixed: Any) -> None:
    model, explainer = mixed
    x = pictures(2, 1)
    with pytest.raises(InputError, match="has two references"):
        explainer(x, reference=0, **{"reference.x": x})
    for reference, said in (("black", "'blur'"), ({"y": 0}, "'y'"), (torch.zeros(7), r"\[7\]")):
        with pytest.raises(InputError, match=said):
            explainer(x, reference=reference)
    with pytest.raises(InputError, match="composite='reference'"):
        lrp.compile(model, (x,))(x, reference=0.0)
    with pytest.raises(InputError, match="a weight does not differ"):
        lrp.compile(model, (x,), composite="reference", wrt=["head.weight"])


@pytest.mark.parametrize(
    ("wrong", "said"), [(np.nan, "holds NaN"), (np.inf, "is infinite where"), (-np.inf, "is infinite where")]
)
def test_a_reference_that_no_difference_is_made_from_is_refused(wrong: float, said: str, tmp_path: Path) -> None:
    net, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    there = torch.zeros(1, 3)
    there[0, 1] = wrong
    explainer = lrp.compile(net, (x,), composite="reference")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "there.npy", there.numpy())

    for given in (there, there.numpy(), there.tolist(), {"input": there}):
        with pytest.raises(InputError, match=f"'input' {said}"):
            explainer(x, reference=given)
    with pytest.raises(InputError, match=f"'input' {said}"):
        explainer.audit(x, reference=there)
    with pytest.raises(InputError, match=f"'input' {said}"):
        explainer(x, **{"reference.input": there.expand(2, 3)})
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as session, pytest.raises(InputError, match=f"'input' {said}"):
        session(x.numpy(), reference=np.load(tmp_path / "there.npy"))


def test_what_is_infinite_in_the_input_may_be_in_its_reference() -> None:
    """A mask that is added is the same at both ends, by hand: the softmax of the two scores that are left."""

    class Net(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return (x + mask).softmax(1)[:, :1]

    x, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, -torch.inf]])
    explainer = lrp.compile(Net().eval(), (x, mask), composite="reference", target=lrp.Target(0, probability=True))

    found = explainer(x, mask, reference={"x": 0.0, "mask": mask})

    change = torch.tensor([1.0, 2.0]).softmax(0)[0] - 0.5
    torch.testing.assert_close(found.relevance["x"].sum(), change, rtol=1e-5, atol=0)
    assert (found.relevance["mask"] == 0).all()


COUNTING: dict[str, tuple[Any, str]] = {
    "mask": (lambda x: x[x > 0].sum(), "how many places there are at index"),
    "rows": (lambda x: x[x.sum(1) > 0].sum(), "how many places there are at index"),
    "selected": (lambda x: x.masked_select(x > 0).mean(), "how many places there are at masked_select"),
    "nonzero": (lambda x: x[0][(x[0] > 0).nonzero()[:, 0]].sum(), "how many places there are at nonzero"),
    "repeated": (lambda x: x[0].repeat_interleave((x[0] > 0).long()).sum(), "how many places there are at repeat"),
    "a number": (lambda x: x.sum() * (x > 0).sum().item(), "the number that is read"),
}


@pytest.mark.parametrize("kind", COUNTING)
def test_what_is_counted_otherwise_at_the_reference_is_refused(kind: str) -> None:
    """Whatever has another number of elements there has no differences place by place."""
    function, said = COUNTING[kind]

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x) * x.new_ones(1, 1)

    x = torch.tensor([[0.5, -1.0, 2.0], [0.25, 3.0, -0.5]])
    with pytest.raises(CompositeError, match=said):
        lrp.compile(Net().eval(), (x,), composite="reference", target=0)
    lrp.compile(Net().eval(), (x,), composite="epsilon", target=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_what_an_input_without_a_reference_picks_adds_up(dtype: torch.dtype) -> None:
    """By hand: of the places that are picked what they differ by, times the weight of each."""

    class Net(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            picked = x[:, mask > 0] if mask.dtype.is_floating_point else x[:, mask]
            return (picked**2).sum(1, keepdim=True)

    x, mask = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64), torch.tensor([True, False, True]).to(dtype)
    explainer = lrp.compile(Net().eval(), (x, mask), composite="reference", target=0, fixed=["mask"])

    found = explainer(x, torch.tensor([True, True, False]).to(dtype), reference=0.5)

    torch.testing.assert_close(found.relevance["x"], torch.tensor([[0.75, 3.75, 0.0]], dtype=torch.float64))


class Narrow(nn.Module):
    """A product in half precision; a norm in double precision beside it, and a mask in half."""

    def __init__(self, narrow: bool) -> None:
        super().__init__()
        self.head, self.narrow = nn.Linear(3, 2), narrow

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x.double(), (3,)).float() * (x > -2).half().float()
        return (x.half() @ self.head.weight.T.half()).float() if self.narrow else self.head(x)


@pytest.mark.parametrize("composite", ["reference", "epsilon"])
@pytest.mark.parametrize("narrow", [False, True])
def test_differences_of_rounded_numbers_are_told(narrow: bool, composite: str) -> None:
    """What relevance passes and is narrower than what is explained; a wider value, a mask or weights are none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LrpWarning)
        lrp.compile(Narrow(narrow).eval(), (torch.randn(2, 3),), composite=composite)
    said = [str(one.message) for one in caught if issubclass(one.category, LrpWarning)]
    assert len(said) == (narrow and composite == "reference")
    assert not said or "calculates in float16 at _to_copy" in said[0]


@pytest.mark.slow
def test_rules_of_values_do_not_mix_with_those_of_differences(mixed: Any) -> None:
    model, _ = mixed
    entries = lrp.composites.reference().entries
    strange = lrp.Composite("mine", (lrp.Entry("linear", "epsilon"), *entries), differences=True)
    bare = lrp.Composite("bare", (), differences=True)
    for composite in (strange, bare):
        with pytest.raises(CompositeError, match="which is of values"):
            lrp.compile(model, (pictures(2, 1),), composite=composite)
    with pytest.raises(CompositeError, match="composite='reference'"):
        lrp.compile(model, (pictures(2, 1),), composite=lrp.Composite("mine", (lrp.Entry("linear", "difference"),)))
    stopped = lrp.Composite("stopped", (lrp.Entry("softmax", "zero"), *entries), differences=True)
    books = lrp.compile(model, (pictures(2, 1),), composite=stopped).audit(pictures(2, 1), reference=pictures(2, 2))
    assert abs(books.error) <= 1e-12
    assert books.absorbed["softmax"] != 0


@pytest.mark.slow
def test_a_vision_transformer_is_explained_as_an_implementation_on_autograd_does_it() -> None:
    torch.manual_seed(0)
    model = drawn(vit())
    x, there = (torch.randn(2, 1, 28, 28, dtype=torch.float64) for _ in range(2))
    program = exported(model, (x,), ({0: torch.export.Dim("batch")},))
    theirs, _ = explain(program, x, there, torch.tensor([3, 3]), Rules(small=1e-7))

    ours = lrp.compile(model, (x,), composite="reference", target=3)(x, reference=there).relevance["x"]

    # Slopes at differences below 1e-5 are another estimate of the same derivative there.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("function", [nn.ReLU, nn.Sigmoid])
def test_on_networks_of_pools_it_is_deeplift(function: type[nn.Module]) -> None:
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = drawn(
        nn.Sequential(
            # Captum's does not add up where a function stands next to a pool.
            *(nn.Conv2d(1, 4, 3), function(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), function(), nn.Conv2d(6, 6, 1), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(54, 8), function(), nn.Linear(8, 5)),
        )
    )
    x, there = (torch.randn(2, 1, 14, 14, dtype=torch.float64) for _ in range(2))
    theirs, off = attr.DeepLift(model).attribute(x, there, target=3, return_convergence_delta=True)
    assert float(off.abs().max()) <= 1e-12

    ours = lrp.compile(model, (x,), composite="reference", target=3)(x, reference=there).relevance["input"]

    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.heavy
@pytest.mark.parametrize("name", FIFTEEN)
def test_it_adds_up_on_architectures_of_every_kind(name: str) -> None:
    """Two layers deep, narrow; nothing is absorbed anywhere."""
    architecture = ARCHITECTURES[name]
    model = architecture.build(width=18 if name == "siglip2" else 16, depth=2)
    explainer = lrp.compile(
        model,
        kwargs=architecture.inputs(2),
        composite="reference",
        target=lrp.Target("index", position=architecture.position),
        dynamic_shapes=architecture.dynamic_shapes,
    )
    x, there = architecture.inputs(2, seed=5), architecture.inputs(2, seed=9)
    given = {spec.name.removeprefix("reference.") for spec in explainer.inputs if spec.name.startswith("reference.")}

    reference = {key: there[key] for key in given}
    books = explainer.audit(**x, target=torch.tensor([1, 0]), reference=reference)

    assert abs(books.seed - sum(books.inputs.values())) <= 1e-9 * books.magnitude
    assert all(abs(share) <= 1e-9 * books.magnitude for share in books.absorbed.values())
    assert not books.suspects(1e-9)


@pytest.mark.heavy
@pytest.mark.parametrize("name", FIFTEEN)
def test_files_of_architectures_of_every_kind_are_as_close_to_float64_as_torch(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build(width=18 if name == "siglip2" else 16, depth=2)

    def compiled(model: nn.Module) -> lrp.Explainer:
        return lrp.compile(
            model,
            kwargs=in_dtype_of(model, architecture.inputs(2)),
            composite="reference",
            target=lrp.Target("index", position=architecture.position),
            dynamic_shapes=architecture.dynamic_shapes,
        )

    explainer, twice = compiled(model), deepcopy(model).double()
    x, there = architecture.inputs(2, seed=5), architecture.inputs(2, seed=9)
    target = torch.tensor([1, 0])
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    given = [spec.name.removeprefix("reference.") for spec in explainer.inputs if spec.name.startswith("reference.")]

    exact = in_dtype_of(twice, x), in_dtype_of(twice, there)
    wanted = compiled(twice)(**exact[0], target=target, reference={key: exact[1][key] for key in given}).relevance
    single = explainer(**x, target=target, reference={key: there[key] for key in given}).relevance
    arrays = {key: value.numpy() for key, value in x.items()}
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as session:
        reference = {key: there[key].numpy() for key in given}
        found = session(**arrays, target=target.numpy(), reference=reference).relevance

    for key, value in wanted.items():
        off_torch, off = (
            float((one.double() - value).norm() / value.norm()) for one in (single[key], torch.from_numpy(found[key]))
        )
        # Random weights may amplify rounding until float32 is a lottery in either; 1e-6 is some ten roundings.
        if off_torch <= 1e-2:
            assert off <= 3 * off_torch + 1e-6, (key, off, off_torch)


def in_dtype_of(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    dtype = next(model.parameters()).dtype
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}


@pytest.mark.parametrize("shapes", [None, ({0: torch.export.Dim("batch")},)])
@pytest.mark.parametrize(
    "function",
    [
        lambda h: h.prod(1),
        lambda h: h.prod(2, keepdim=True).flatten(1),
        lambda h: h.cumprod(1).flatten(1),
        lambda h: h.cumprod(2).mT.flatten(1),
        lambda h: h[:, 0].atan2(h[:, 1] + 3),
        lambda h: h[:, 0].abs() ** h[:, 1],
    ],
)
def test_what_is_made_of_many_elements_goes_into_files(function: Any, shapes: Any, tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x.view(-1, 3, 4) + 1).sum(1, keepdim=True)

    torch.manual_seed(0)
    net, x, there = Net().eval(), torch.randn(3, 12), torch.randn(3, 12)
    explainer = lrp.compile(net, (x,), composite="reference", target=0, dynamic_shapes=shapes)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    wanted = explainer(x, reference=there).relevance["x"]

    torch.testing.assert_close(wanted.sum(1), (net(x) - net(there))[:, 0], rtol=1e-5, atol=1e-5)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as session:
        found = session(x.numpy(), reference=there.numpy()).relevance["x"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_flags_of_classes_are_in_the_books() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flags = nn.functional.one_hot((x.abs() * 2).long(), 8).to(x.dtype)
            return (flags * torch.arange(8.0)).sum((1, 2))[:, None]

    x = torch.tensor([[0.2, 1.7], [3.1, 0.6]], dtype=torch.float64)
    explainer = lrp.compile(Net().eval(), (x,), composite="reference", target=0)

    assert abs(explainer.audit(x).error) <= 1e-12
    torch.testing.assert_close(explainer(x).relevance["x"].sum(1), Net()(x)[:, 0], check_dtype=False, **EXACT)


def test_whole_numbers_on_the_way_hand_on_what_they_differ_by() -> None:
    """By hand, against a reference of zeros: `W (trunc 3x − 0)`; where nothing differs, nothing."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x * 3).to(torch.int8).to(x.dtype))

    model = Whole().eval().double()
    x = torch.tensor([[0.1, 0.5, -2.0, 1e-9], [0.0, -0.4, 3.4, 0.3]], dtype=torch.float64)

    relevance = lrp.compile(model, (x,), composite="reference", target=1)(x).relevance["x"]

    torch.testing.assert_close(relevance, ((3 * x).trunc() * model.head.weight[1]).detach(), **EXACT)


@pytest.mark.parametrize(("dtype", "score"), [(torch.float32, 110.0), (torch.float64, 800.0), (torch.float16, 20.0)])
@pytest.mark.parametrize("kind", ["softmax", "logsumexp"])
def test_probabilities_too_small_to_be_told_from_zero_are_not_masked(
    kind: str, dtype: torch.dtype, score: float
) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(1) @ x.new_tensor([[1.0], [0.0]]) if kind == "softmax" else x.logsumexp(1, keepdim=True)

    x = torch.tensor([[score, 0.0]], dtype=dtype)
    net = Net().eval()

    found = lrp.compile(net, (x,), composite="reference", target=0, optimise=False)(x).relevance["x"]

    change = (net(x) - net(torch.zeros_like(x))).double()
    # Of the place that has nearly all, 1 − its share is left: about ln 2 / score, with the rounding of 1.
    rounding = 2 * score * torch.finfo(dtype).eps
    torch.testing.assert_close(found.sum(1, keepdim=True).double(), change, rtol=rounding, atol=0)
    assert found[0, 1] == 0


def test_attention_that_looks_at_one_place_adds_up() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (torch.softmax(x @ x.transpose(1, 2) * 3, -1) @ x).sum((1, 2))[:, None]

    torch.manual_seed(0)
    x, net = 3 * torch.randn(4, 6, 8), Net().eval()
    assert ((x @ x.transpose(1, 2) * 3).softmax(-1) == 0).any()

    found = lrp.compile(net, (x,), composite="reference", target=0)(x).relevance["x"]

    change = net(x) - net(torch.zeros_like(x))
    # The multipliers are as large as scores, some hundred times the values.
    torch.testing.assert_close(found.sum((1, 2)), change[:, 0], rtol=1e-4, atol=1e-4)
