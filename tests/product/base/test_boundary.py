"""Whatever goes wrong inside leaves as one sentence: what, where, what to do; the original is its cause."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.boundary import boundary
from lrp_compiler.errors import CaptureError, InputError, InternalError, LrpError
from lrp_compiler.passes.optimise import OF_JOINT

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@boundary("do this")
def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        InputError("A sentence."),
        FileNotFoundError(2, "No such file", "x"),
        OSError("no space left on device"),
        MemoryError(),
        UserWarning("a warning that is an error"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_a_sentence_or_no_error_of_a_computation_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        raising(error)
    assert raised.value is error
    with pytest.raises(type(error)) as raised, boundary("do that"):
        raise error
    assert raised.value is error


def test_the_users_own_code_is_named_by_file_line_and_function() -> None:
    def report(stage: str) -> None:
        raise ZeroDivisionError("mine")

    line = inspect.getsourcelines(report)[1] + 1
    with pytest.raises(LrpError) as raised:
        lrp.compile(net(), (X,), progress=report)

    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert not isinstance(raised.value, InternalError)
    assert f"ZeroDivisionError: mine, raised by test_boundary.py:{line} in report" in str(raised.value)


def test_a_rule_that_fails_is_named_with_its_node_and_the_line_of_the_model() -> None:
    @lrp.rule(torch.ops.aten.special_modified_bessel_k0.default)
    def forgetful(op: Any, relevance: Any) -> Any:
        return {}["nothing"]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.modified_bessel_k0(x)

    with pytest.raises(LrpError) as raised:
        lrp.compile(Model().eval(), (X,))

    message = str(raised.value)
    assert "\n" not in message
    for word in ("in forgetful", "propagating relevance", "special_modified_bessel_k0 in inner", "test_boundary.py:"):
        assert word in message


def test_a_defect_of_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, Any] = {"__name__": "lrp_compiler.passes.optimise.broken"}
    exec("def broken(module):\n    return {}['nothing']", namespace)
    monkeypatch.setattr("lrp_compiler.passes.pipeline.OF_JOINT", (namespace["broken"], *OF_JOINT))
    with pytest.raises(InternalError) as raised:
        lrp.compile(net(), (X,))

    message = str(raised.value)
    assert isinstance(raised.value.__cause__, KeyError)
    assert "\n" not in message
    assert message.startswith("Cannot compile the model: KeyError: 'nothing' in lrp_compiler.passes.optimise.broken")
    assert "simplifying the graph" in message
    assert "defect of lrp_compiler" in message
    assert "--debug" in message


def test_out_of_memory_is_said_to_be_that() -> None:
    with pytest.raises(LrpError, match=r"not enough memory.*memory_budget") as raised:
        raising(RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes"))
    assert not isinstance(raised.value, InternalError)


def test_sizes_that_are_known_only_in_the_run_are_no_defect() -> None:
    with pytest.raises(LrpError, match="size that is known only when the model runs") as raised:
        raising(type("GuardOnDataDependentSymNode", (RuntimeError,), {})("Could not guard on Eq(u0, 1)"))
    assert not isinstance(raised.value, InternalError)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lrp.compile(net(), (X,), compsite="epsilon"), ["'compsite'", "did you mean 'composite'"]),
        (lambda: lrp.compile(net(), (X,))(X).heatmap(colour="red"), ["'colour'"]),
        (lambda: lrp.compile(net(), (X,)).save(3), ["path", "int"]),
        (lambda: lrp.compile(net(), (X,)).to_onnx(None), ["path", "NoneType"]),
    ],
)
def test_calls_that_do_not_fit_a_function_are_refused(call: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        call()
    assert [word for word in words if word not in str(raised.value)] == []


def test_signature_and_documentation_stay() -> None:
    assert "composite" in inspect.signature(lrp.compile).parameters
    assert "Raises" in str(lrp.compile.__doc__)


def test_a_model_that_fails_by_itself_is_told_by_its_own_line() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such mode\nand more")

    with pytest.raises(CaptureError, match=r"itself fails .*ValueError: no such mode \(test_boundary.py:\d+\)"):
        lrp.compile(Model().eval(), (X,))


def test_a_run_that_fails_names_the_operation_and_its_module() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids + 1).mean(1))

    explainer = lrp.compile(Model().eval(), (torch.zeros(2, 5, dtype=torch.int64),))
    for call in (explainer, explainer.audit):
        with pytest.raises(InputError, match=r"itself fails on these inputs at embedding in words .*IndexError"):
            call(torch.full((2, 5), 6))


@pytest.mark.parametrize("number", [-1, 7])
def test_a_row_that_a_table_does_not_have_is_told_as_the_file_tells_it(number: int) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids).mean(1))

    explainer = lrp.compile(Model().eval(), (torch.zeros(2, 5, dtype=torch.int64),))
    for call in (explainer, explainer.audit):
        with pytest.raises(InputError, match=f"^Input 'ids' holds {number}, but what it looks up has rows 0 to 6"):
            call(torch.full((2, 5), number))


def test_warnings_keep_pointing_at_the_caller() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lrp.compile(model, (X,))
    assert [warning.filename for warning in caught if "probability" in str(warning.message)] == [__file__]
