"""Compiling leaves the model as it was, and what a model computes does not depend on how it is written down."""

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.base.errors import UnsupportedOpError
from lrp_compiler.rules import OPERATORS

pytestmark = pytest.mark.sampled(4)

BATCH = torch.export.Dim("batch")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alive(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters, in float64 and eval mode."""
    source = generator(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=source, dtype=torch.float64) / parameter.shape[-1] ** 0.5
            )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=source))
                module.running_var.copy_(torch.rand(module.num_features, generator=source) + 0.5)
    return model


def images(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=generator(seed), dtype=torch.float64)


class Cnn(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, stride=2, bias=bias)
        self.head = nn.Linear(8, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.norm(self.first(x)).relu(), 2)
        return self.head(self.second(x).relu().flatten(1))


class PlainCnn(nn.Module):
    """Without biases and normalisation: gradient × input is its LRP in the limit ε → 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 8, 3, stride=2, bias=False)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.first(x).relu(), 2)
        return self.head(self.second(x).relu().flatten(1))


def relevance(
    model: nn.Module, x: Tensor, composite: str = "attnlrp", target: int | str = 1, **options: object
) -> Tensor:
    explainer = lrp.compile(model, (x,), composite=composite, target=target, **options)  # type: ignore[arg-type]
    (result,) = explainer(x).relevance.values()
    return result


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))


# ---- The model ----


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp"])
def test_the_model_is_as_it_was(composite: str, tmp_path: object) -> None:
    model, x = alive(Cnn()), images()
    model.first.weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    grad_flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with torch.no_grad():
        output = model(x)

    explainer = lrp.compile(model, (x,), composite=composite)
    explainer(x)
    explainer.audit(x)
    explainer.save(f"{tmp_path}/m.lrp.pt2")

    assert torch.equal(model(x), output)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == identities
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == grad_flags
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not model.training
    for module in model.modules():
        hooks = [value for name, value in vars(module).items() if name.endswith("_hooks")]
        assert not any(hooks)


def test_gradients_still_work_afterwards() -> None:
    model, x = alive(Cnn()), images()
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))

    explainer = lrp.compile(model, (x,))
    explainer(x)

    gradients = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    assert all(torch.equal(gradient, before) for gradient, before in zip(gradients, expected, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_explaining_while_autograd_records_changes_no_gradient() -> None:
    model, x = alive(PlainCnn()), images().requires_grad_()
    explainer = lrp.compile(model, (x,), composite="attnlrp", target=1)

    output = model(x)
    explanation = explainer(x)
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), x)

    same(explanation.relevance["x"], gradient * x.detach())
    assert not explanation.relevance["x"].requires_grad


@pytest.mark.parametrize("target", ["argmax", "index", 3])
def test_relevance_is_gradient_times_input_where_the_theory_says_so(target: int | str) -> None:
    model, x = alive(PlainCnn()), images(batch=4).requires_grad_()
    explainer = lrp.compile(model, (x,), composite="attnlrp", target=target)
    chosen = {"argmax": model(x).argmax(-1), "index": torch.tensor([0, 4, 2, 2]), 3: torch.full((4,), 3)}[target]
    (gradient,) = torch.autograd.grad(model(x).gather(1, chosen.unsqueeze(1)).sum(), x)
    expected = (gradient * x).detach()

    result = explainer(x, target=chosen) if target == "index" else explainer(x)

    torch.testing.assert_close(result.relevance["x"], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_retraining_the_model_does_not_move_a_folded_explainer() -> None:
    # Unfolded weights are shared on purpose; the documentation says so.
    model, x = alive(Cnn()), images()
    explainer = lrp.compile(model, (x,), composite="epsilon")
    weights = {name: buffer for name, buffer in explainer.module.named_buffers() if "folded" in name}

    assert weights
    assert all(
        buffer.data_ptr() != parameter.data_ptr() for buffer in weights.values() for parameter in model.parameters()
    )


# ---- Example inputs ----


@pytest.mark.slow
def test_example_inputs_are_unchanged_and_not_kept() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clone().mul_(2).sum(1)

    x = torch.randn(3, 4)
    before, shape_marks = x.clone(), set(vars(x))

    explainer = lrp.compile(InPlace().eval(), (x,), dynamic_shapes={"x": {0: BATCH}})
    explainer.audit(x)

    assert torch.equal(x, before)
    assert set(vars(x)) == shape_marks
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None
    assert explainer is not None


def test_the_same_tensor_given_twice_stays_two_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return 2 * a + 3 * b

    x, y = torch.ones(2, 3), torch.full((2, 3), 10.0)
    explainer = lrp.compile(Two().eval(), (x, x), target=0)

    result = explainer(x, y)

    assert result.output[0, 0] == 32
    assert result.relevance["a"][0, 0] == pytest.approx(2, rel=1e-5)
    assert result.relevance["b"][0, 0] == pytest.approx(30, rel=1e-5)


# ---- Metamorphic: the same function written differently ----


COMPOSITES = pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp"])
# The end-to-end tests hold the same of other networks every day.
repeats = pytest.mark.heavy


class Repeated(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        block = nn.Conv2d(6, 6, 3, padding=1)
        self.blocks = nn.ModuleList([block, block if shared else copy.deepcopy(block)])
        self.head = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x.flatten(1))


@repeats
@COMPOSITES
def test_a_shared_module_is_its_untied_copy(composite: str) -> None:
    shared = alive(Repeated(shared=True))
    untied = Repeated(shared=False).double().eval()
    untied.load_state_dict({**shared.state_dict()})

    same(relevance(shared, images(), composite), relevance(untied, images(), composite))


class Functional(nn.Module):
    """`Cnn` without modules in its forward."""

    def __init__(self, modules: Cnn) -> None:
        super().__init__()
        self.tensors = nn.ParameterDict({name.replace(".", "_"): value for name, value in modules.named_parameters()})
        self.register_buffer("mean", modules.norm.running_mean)
        self.register_buffer("variance", modules.norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        tensors = self.tensors
        x = torch.conv2d(x, tensors["first_weight"], tensors["first_bias"], padding=1)
        x = functional.batch_norm(x, self.mean, self.variance, tensors["norm_weight"], tensors["norm_bias"])
        x = torch.max_pool2d(torch.relu(x), 2)
        x = torch.conv2d(x, tensors["second_weight"], tensors["second_bias"], stride=2).clamp(min=0)
        return torch.addmm(tensors["head_bias"], x.flatten(1), tensors["head_weight"].t())


@repeats
@COMPOSITES
def test_the_functional_form_is_the_module_form(composite: str) -> None:
    modules = alive(Cnn())

    same(relevance(Functional(modules).eval(), images(), composite), relevance(modules, images(), composite))


@repeats
@COMPOSITES
def test_a_batch_is_its_rows_alone(composite: str) -> None:
    explainer = lrp.compile(
        alive(Cnn()), (images(2),), composite=composite, target="argmax", dynamic_shapes={"x": {0: BATCH}}
    )
    x = images(5, seed=9)

    together = explainer(x).relevance["x"]

    same(together, torch.cat([explainer(row.unsqueeze(0)).relevance["x"] for row in x]))


@repeats
@COMPOSITES
def test_permuted_input_channels_permute_the_relevance(composite: str) -> None:
    model = alive(Cnn())
    permuted = copy.deepcopy(model)
    order = [2, 0, 1]
    with torch.no_grad():
        permuted.first.weight.copy_(model.first.weight[:, order])

    same(relevance(permuted, images()[:, order], composite), relevance(model, images(), composite)[:, order])


class WithNoOp(nn.Module):
    def __init__(self, cnn: Cnn, no_op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.cnn, self.no_op = cnn, no_op

    def forward(self, x: Tensor) -> Tensor:
        cnn = self.cnn
        x = functional.max_pool2d(cnn.norm(cnn.first(self.no_op(x))).relu(), 2)
        return cnn.head(self.no_op(cnn.second(self.no_op(x)).relu()).flatten(1))


NO_OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(x.shape[0], -1).view(x.shape),
    "transpose twice": lambda x: x.transpose(1, 2).transpose(1, 2),
    "permute there and back": lambda x: x.permute(2, 0, 3, 1).permute(1, 3, 0, 2),
    "split and cat": lambda x: torch.cat(x.split(2, dim=1), dim=1),
    "chunk and cat": lambda x: torch.cat(x.chunk(2, dim=1), dim=1),
    "unbind and stack": lambda x: torch.stack(x.unbind(1), dim=1),
    "plus 0": lambda x: x + 0,
    "plus a tensor of zeros": lambda x: x + torch.zeros(1, dtype=torch.float64),
    "times 1": lambda x: x * 1,
    "times 1.0": lambda x: 1.0 * x,
    "divided by 1": lambda x: x / 1,
    "minus minus": lambda x: x.neg().neg(),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
    "slice of all": lambda x: x[:, :],
    "squeeze and unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "flip twice": lambda x: x.flip(1).flip(1),
    "roll there and back": lambda x: x.roll(1, 1).roll(-1, 1),
    "pad and crop": lambda x: functional.pad(x, (1, 2))[..., 1:-2],
    "dropout": lambda x: functional.dropout(x, 0.5, training=False),
    "where true": lambda x: torch.where(torch.ones(1, dtype=torch.bool), x, torch.zeros(1, dtype=x.dtype)),
    "masked by nothing": lambda x: x.masked_fill(torch.zeros(1, dtype=torch.bool), 3.0),
    "index of all": lambda x: x[:, torch.arange(x.shape[1])],
    "expand and mean": lambda x: x.unsqueeze(0).expand(3, *x.shape).mean(0),
    "float32 and back": lambda x: x.to(torch.float64),
}
ONLY_HERE = ("plus a tensor of zeros", "divided by 1", "detach", "slice of all", "expand and mean", "float32 and back")


@pytest.fixture(scope="module")
def plain_relevance() -> Callable[[str], Tensor]:
    known: dict[str, Tensor] = {}

    def of(composite: str) -> Tensor:
        if composite not in known:
            known[composite] = relevance(alive(Cnn()), images(), composite)
        return known[composite]

    return of


# In the limit nothing may change but rounding. Under a finite ε an inserted map may divide once more: 1e-6 / |z|.
@pytest.mark.sampled(16)
@pytest.mark.parametrize("no_op", [pytest.param(name, marks=() if name in ONLY_HERE else repeats) for name in NO_OPS])
def test_a_no_op_changes_nothing(no_op: str, plain_relevance: Callable[[str], Tensor]) -> None:
    same(relevance(WithNoOp(alive(Cnn()), NO_OPS[no_op]).eval(), images()), plain_relevance("attnlrp"))


@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    "no_op", ["view", "transpose twice", "split and cat", "plus 0", "times 1", "pad and crop", "clone"]
)
@pytest.mark.parametrize("composite", ["epsilon", pytest.param("epsilon-plus", marks=repeats)])
def test_a_no_op_changes_nothing_under_finite_epsilon(
    no_op: str, composite: str, plain_relevance: Callable[[str], Tensor]
) -> None:
    same(relevance(WithNoOp(alive(Cnn()), NO_OPS[no_op]).eval(), images(), composite), plain_relevance(composite))


# ---- Rules of the user ----


@torch.library.custom_op("lrp_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


@cube.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Cubic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.ops.lrp_tests.cube(x))


@pytest.fixture(scope="module")
def cubic_rule() -> None:
    @lrp.rule(torch.ops.lrp_tests.cube.default)
    def identity(op: lrp.Op, relevance: lrp.Relevance) -> lrp.Relevance:
        return lrp.total(op.total(relevance))


def test_a_custom_op_without_a_rule_is_named() -> None:
    @torch.library.custom_op("lrp_tests::lonely", mutates_args=())
    def lonely(x: Tensor) -> Tensor:
        return x + 1

    lonely.register_fake(lambda x: torch.empty_like(x))

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.lrp_tests.lonely(x)

    with pytest.raises(UnsupportedOpError, match=r"lrp_tests\.lonely\.default"):
        lrp.compile(Model().eval(), (torch.randn(2, 4),))


@pytest.mark.usefixtures("cubic_rule")
def test_a_rule_of_the_user_explains_a_custom_op() -> None:
    model, x = alive(Cubic()), torch.randn(3, 4, dtype=torch.float64)

    explanation = lrp.compile(model, (x,), composite="attnlrp", target=2)(x)

    expected = x**3 * model.head.weight[2]
    same(explanation.relevance["x"], expected.detach())


@pytest.mark.usefixtures("cubic_rule")
def test_a_second_rule_for_an_op_is_refused() -> None:
    with pytest.raises(ValueError, match="has a rule already"):
        lrp.rule(torch.ops.lrp_tests.cube.default)(lambda op, relevance: relevance)


@pytest.mark.usefixtures("cubic_rule")
def test_a_notebooks_cell_may_run_again() -> None:
    """`replace` changes the rule of all that is compiled from then on, and of nothing where one op is refused."""
    cube = torch.ops.lrp_tests.cube.default
    before = OPERATORS[cube]
    model, x = alive(Cubic()), torch.randn(3, 4, dtype=torch.float64)
    twice = lambda op, relevance: lrp.total(2 * op.total(relevance))  # noqa: E731
    try:
        for _ in range(2):
            assert lrp.rule(cube, replace=True)(twice) is twice
        again = lrp.compile(model, (x,), composite="attnlrp", target=2)(x)
        same(again.relevance["x"], (2 * x**3 * model.head.weight[2]).detach())
        with pytest.raises(ValueError, match="has a rule of the library's"):
            lrp.rule(cube, torch.ops.aten.relu.default, replace=True)(lambda op, relevance: relevance)
        assert OPERATORS[cube][0].describe(None) is twice
    finally:
        OPERATORS[cube] = before


def test_a_packet_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cube\.default"):
        lrp.rule(torch.ops.lrp_tests.cube)(lambda op, relevance: relevance)


@pytest.mark.heavy
def test_one_model_may_be_compiled_by_several_threads_at_once() -> None:
    """While torch.export traces a module, other tensors stand in it: no other thread may meet them."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(2, 4)
    held = {name: (tensor, tensor.detach().clone()) for name, tensor in [*net.named_parameters(), *net.named_buffers()]}

    with ThreadPoolExecutor(6) as pool:
        explainers = list(pool.map(lambda _: lrp.compile(net, (x,)), range(12)))

    for explainer in explainers:
        torch.testing.assert_close(explainer(x).output, net(x))
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        assert tensor is held[name][0]
        assert torch.equal(tensor, held[name][1])
