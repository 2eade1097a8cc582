"""Where explainers go: other machines, other languages, and files from people one does not know.

The yardstick of results is that of the ONNX parity tests: at most three times what torch in float32 is off float64.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folders import ROOT, TESTS
from support.row_errors import logits_of, row_errors
from support.small import small
from support.tiny import assert_one_sentence, tiny
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.check.runtimes import RUNTIMES
from lrp_compiler.cli import main

"""Where explainers go: other machines, other languages, and files from people one does not know.

The yardstick of results is that of the ONNX parity tests: at most three times what torch in float32 is off float64.
"""

Explain = Callable[..., lrp.Explainer]

Members = dict[str, bytes]

DEPLOY = TESTS / "deploy"

BUILD = ROOT / "build" / "deploy"

ONNXRUNTIME_NODE = "1.30.0"


def test_a_loaded_explainer_that_moved_gives_the_same_bits(tmp_path: Path) -> None:
    tiny().save(tmp_path / "m.lrp.pt2")
    x, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    before = tiny()(x, target=target)

    moved = lrp.load(tmp_path / "m.lrp.pt2").to("cpu").to(torch.device("cpu"))

    after = moved(x, target=target)
    assert torch.equal(after.output, before.output)
    assert torch.equal(after.relevance["input"], before.relevance["input"])
    assert moved.audit(x, target=target).inputs["input"] == pytest.approx(
        float(after.relevance["input"].double().sum()), rel=1e-5
    )
    moved.save(tmp_path / "again.lrp.pt2")
    moved.to_onnx(tmp_path / "again.lrp.onnx")
    again = lrp.load(tmp_path / "again.lrp.pt2")(x, target=target)
    assert torch.equal(again.relevance["input"], before.relevance["input"])


@pytest.mark.parametrize("device", ["cuda:77", "meta", "abacus"])
def test_a_device_that_is_not_there_is_refused_and_nothing_moves(device: str, tmp_path: Path) -> None:
    tiny().save(tmp_path / "m.lrp.pt2")
    explainer = lrp.load(tmp_path / "m.lrp.pt2")
    x, target = torch.randn(2, 4), torch.tensor([0, 2])
    before = explainer(x, target=target)

    with pytest.raises(InputError, match=device) as raised:
        explainer.to(device)

    assert_one_sentence(raised.value)
    assert torch.equal(explainer(x, target=target).relevance["input"], before.relevance["input"])


def touching(mark: Path) -> str:
    return f"__import__('pathlib').Path('{mark}').touch()"


def in_program(change: Callable[[dict[str, Any], Path], None]) -> Callable[[Members, Path], None]:
    def write(members: Members, mark: Path) -> None:
        edit(members, "models/model.json", lambda program: change(program, mark))

    write.__name__ = change.__name__
    return write


@in_program
def size(program: dict[str, Any], mark: Path) -> None:
    first(program["graph_module"]["graph"]["tensor_values"])["sizes"] = [
        {"as_expr": {"expr_str": touching(mark), "hint": None}}
    ]


def edit(members: Members, name: str, change: Callable[[Any], None]) -> None:
    content = json.loads(members[name])
    change(content)
    members[name] = json.dumps(content).encode()


def first(entries: Mapping[str, Any]) -> Any:
    return next(iter(entries.values()))


def test_a_package_needs_the_ending_that_torch_asks_for(tmp_path: Path) -> None:
    with pytest.raises(LrpError, match=r"must end in \.pt2") as raised:
        tiny().to_aoti(tmp_path / "m.aoti")

    assert_one_sentence(raised.value)


def test_a_package_needs_a_compiler(tmp_path: Path) -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(LrpError, match=r"C\+\+ compiler") as raised,
    ):
        tiny().to_aoti(tmp_path / "m.aoti.pt2")

    assert_one_sentence(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_compile_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("C++ compile error\n\nOutput:\nm.cpp:3: error: no such thing\nand more")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)

    with pytest.raises(LrpError, match="no such thing") as raised:
        tiny().to_aoti(tmp_path / "m.aoti.pt2")

    assert_one_sentence(raised.value)
    assert list(tmp_path.iterdir()) == []


needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("cmake")), reason="needs g++ and cmake, to build the C++ program"
)

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm, to run the file in Node"
)


def run(*command: str | Path, seconds: int = 600, **options: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=seconds, **options)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout


def write_raw(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name → the argument that the program in deploy/ takes for it."""
    arguments = {}
    for name, tensor in tensors.items():
        path = folder / f"{name}.{'i64' if tensor.dtype == torch.int64 else 'f32'}"
        path.write_bytes(tensor.numpy().tobytes())
        arguments[name] = f"{path}:{','.join(map(str, tensor.shape))}"
    return arguments


def read_raw(path: Path, shape: list[str]) -> np.ndarray:
    return np.fromfile(path, np.float32).reshape([int(size) for size in shape])


def assert_as_exact_as_torch(
    explain: Explain,
    name: str,
    composite: str,
    run_elsewhere: Callable[[dict[str, Tensor]], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Nine rows of fresh input in two batches, neither of the example's size, each with a class of its own."""
    single, double = explain(name, composite), explain(name, composite, torch.float64)
    errors: dict[str, list[tuple[float, float]]] = {"logits": [], "relevance": []}
    for seed, (batch, length) in enumerate([(4, 9), (5, 14)], start=70):
        args, kwargs = small(name).fresh(batch=batch, length=length, seed=seed)
        target = (torch.arange(batch) * 3 + seed) % 10
        taken = dict(zip([spec.name for spec in single.inputs], [*args, *kwargs.values()], strict=True))
        exact = double(
            *(tensor.double() if tensor.is_floating_point() else tensor for tensor in args), target=target, **kwargs
        )
        ours = single(*args, target=target, **kwargs)
        logits, relevance = run_elsewhere({**taken, "target": target})
        (key,) = exact.relevance
        for kind, elsewhere, here, reference in (
            ("logits", logits, logits_of(ours.output), logits_of(exact.output)),
            ("relevance", relevance, ours.relevance[key], exact.relevance[key]),
        ):
            assert elsewhere.shape == tuple(reference.shape)
            errors[kind] += zip(row_errors(elsewhere, reference), row_errors(here.numpy(), reference), strict=True)
    for kind, rows in errors.items():
        there, torchs = np.median(np.array(rows), axis=0)
        print(f"{name} {kind}: {there:.1e} there, {torchs:.1e} in torch")
        assert there <= 3 * torchs, kind


@pytest.mark.heavy
@needs_compiler
def test_cpp_runs_a_package(explain: Explain, tmp_path: Path) -> None:
    package = tmp_path / "m.lrp.aoti.pt2"
    explainer = explain("resnet50", "epsilon-plus")
    explainer.to_aoti(package)
    assert json.loads(torch._inductor.aoti_load_package(package).get_metadata()["lrp_compiler"]) == explainer.metadata
    with pytest.raises(FormatError, match="compiled library"):
        lrp.load(package)
    build = tmp_path / "build"
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run("cmake", "-S", DEPLOY, "-B", build, prefix, "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", build)

    def in_cpp(inputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        arguments = write_raw(tmp_path, inputs)
        lines = run(build / "aoti", package, tmp_path / "out", *arguments.values()).splitlines()
        logits, relevance = (read_raw(tmp_path / f"out.{number}", line.split()) for number, line in enumerate(lines))
        return logits, relevance

    assert_as_exact_as_torch(explain, "resnet50", "epsilon-plus", in_cpp)


@pytest.mark.heavy
@needs_compiler
def test_the_command_line_writes_a_package(tmp_path: Path) -> None:
    net = nn.Linear(4, 3).eval()
    x = torch.randn(2, 4)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "m.pt2")

    assert main(["compile", str(tmp_path / "m.pt2"), "-o", str(tmp_path / "m.lrp.aoti.pt2"), "--target", "1"]) == 0

    output, relevance = torch._inductor.aoti_load_package(tmp_path / "m.lrp.aoti.pt2")(x)
    expected = lrp.compile(net, (x,), target=1)(x)
    torch.testing.assert_close(output, expected.output)
    torch.testing.assert_close(relevance, expected.relevance["input"])


@pytest.fixture(scope="module")
def node_folder() -> Path:
    """A folder in which `onnxruntime-node` is; made once."""
    folder = BUILD / "node"
    installed = folder / "node_modules" / "onnxruntime-node" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != ONNXRUNTIME_NODE:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        package = f"onnxruntime-node@{ONNXRUNTIME_NODE}"
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"npm cannot install {package}: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.heavy
@needs_node
@pytest.mark.parametrize(("name", "composite"), [("resnet50", "epsilon-plus"), ("bert", "attnlrp")])
def test_node_runs_a_file(
    name: str, composite: str, explain: Explain, node_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lrp.onnx"
    explainer = explain(name, composite)
    explainer.to_onnx(path)
    monkeypatch.chdir(node_folder)
    monkeypatch.setenv("NODE_OPTIONS", "")
    run_file = RUNTIMES["node"].opens(str(path), explainer.about)

    def in_node(inputs: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        results = run_file({name: tensor.numpy() for name, tensor in inputs.items()})
        (relevance,) = (result for name, result in results.items() if name.startswith("relevance."))
        (logits,) = (result for name, result in results.items() if not name.startswith("relevance."))
        return logits, relevance

    assert_as_exact_as_torch(explain, name, composite, in_node)
