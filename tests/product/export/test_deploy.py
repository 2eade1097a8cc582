"""Where explainers go: other machines, other languages, and files from people one does not know.

The yardstick of results is that of the ONNX parity tests: at most three times what torch in float32 is off float64.
"""

import io
import json
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.folders import ROOT, TESTS
from support.row_errors import logits_of, row_errors
from support.sealed import reseal_zip
from support.small import small
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.capture.capture import load_program
from lrp_compiler.check.runtimes import RUNTIMES
from lrp_compiler.cli import main

Explain = Callable[..., lrp.Explainer]
Members = dict[str, bytes]
DEPLOY = TESTS / "deploy"
BUILD = ROOT / "build" / "deploy"
ONNXRUNTIME_NODE = "1.30.0"


@cache
def tiny() -> lrp.Explainer:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    return lrp.compile(net, (torch.randn(2, 4),), target="index", dynamic_shapes=({0: Dim("batch")},))


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert str(error).endswith(".")


# ---- Devices ----


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


# ---- Files of strangers ----


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Payload(mark))


def saved(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": Payload(mark)}, buffer)
    return buffer.getvalue()


def touching(mark: Path) -> str:
    return f"__import__('pathlib').Path('{mark}').touch()"


def sample_inputs(members: Members, mark: Path) -> None:
    members["data/sample_inputs/model.pt"] = saved(mark)


def plain_pickle(members: Members, mark: Path) -> None:
    members["data/sample_inputs/model.pt"] = pickled(mark)


def weights_of_old(members: Members, mark: Path) -> None:
    members["data/weights/model.pt"] = saved(mark)


def constants_of_old(members: Members, mark: Path) -> None:
    members["data/constants/model.pt"] = saved(mark)


def pickled_weight(members: Members, mark: Path) -> None:
    edit(members, "data/weights/model_weights_config.json", lambda c: first(c["config"]).update(use_pickle=True))
    members["data/weights/weight_0"] = saved(mark)


def with_constant(path_name: str, content: Callable[[Path], bytes]) -> Callable[[Members, Path], None]:
    def write(members: Members, mark: Path) -> None:
        entry = {"path_name": path_name, "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit(members, "data/constants/model_constants_config.json", lambda c: c["config"].update(extra=entry))
        members[f"data/constants/{path_name}"] = content(mark)

    write.__name__ = path_name
    return write


def compiled_library(members: Members, mark: Path) -> None:
    members["data/aotinductor/model/code.wrapper.so"] = b"\x7fELF"


def second_program(members: Members, mark: Path) -> None:
    members["models/other.json"] = members["models/model.json"]
    members["data/sample_inputs/other.pt"] = saved(mark)


def older_format(members: Members, mark: Path) -> None:
    program = members["models/model.json"]
    version = json.loads(program)["schema_version"]
    members.clear()
    members["/version"] = f"{version['major']}.{version['minor']}".encode()
    members["/serialized_exported_program.json"] = program
    for name in ("state_dict", "constants", "example_inputs"):
        members[f"/serialized_{name}.pt"] = saved(mark)


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


@in_program
def size_called_metadata(program: dict[str, Any], mark: Path) -> None:
    """A node of the name under which notes stand."""
    values = program["graph_module"]["graph"]["tensor_values"]
    values["metadata"] = dict(first(values), sizes=[{"as_expr": {"expr_str": touching(mark), "hint": None}}])


@in_program
def guard(program: dict[str, Any], mark: Path) -> None:
    program["guards_code"] = [touching(mark)]


@in_program
def operator(program: dict[str, Any], mark: Path) -> None:
    node = program["graph_module"]["graph"]["nodes"][-1]
    node["target"] = "torch.os.system"
    node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {mark}"}, "kind": 1}]
    program["verifiers"] = []


@in_program
def operator_without_a_schema(program: dict[str, Any], mark: Path) -> None:
    file_operator(program, mark)
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file._op"
    program["verifiers"] = []


@in_program
def operator_of_files(program: dict[str, Any], mark: Path) -> None:
    file_operator(program, mark)


def file_operator(program: dict[str, Any], mark: Path) -> None:
    """The first node creates a file when the program is called."""
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.from_file.default"
    given = {"filename": {"as_string": str(mark)}, "shared": {"as_bool": True}, "size": {"as_int": 24}}
    node["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in given.items()]


@in_program
def parameter_name(program: dict[str, Any], mark: Path) -> None:
    rename(program, program["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"], f"x={touching(mark)}")


@in_program
def argument_name(program: dict[str, Any], mark: Path) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = [f"x={touching(mark)}"]


@in_program
def weight_name(program: dict[str, Any], mark: Path) -> None:
    spec = program["graph_module"]["signature"]["input_specs"][0]
    spec["buffer"]["buffer_name"] = f'a"); {touching(mark)}; ("'


@in_program
def structure(program: dict[str, Any], mark: Path) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    (mark.parent / "evil_module.py").write_text(f"open({str(mark)!r}, 'w')")
    context = json.dumps([{"__enum__": True, "fqn": "evil_module:A", "name": "a"}])
    signature["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])


def structure_of_outputs(members: Members, mark: Path) -> None:
    context = {"default_factory_module": "evil_module", "default_factory_name": "A", "dict_context": []}
    spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    (mark.parent / "evil_module.py").write_text(f"open({str(mark)!r}, 'w')")
    edit(members, "extra/lrp_compiler", lambda metadata: metadata.update(output_structure=json.dumps([1, spec])))


def edit(members: Members, name: str, change: Callable[[Any], None]) -> None:
    content = json.loads(members[name])
    change(content)
    members[name] = json.dumps(content).encode()


def first(entries: Mapping[str, Any]) -> Any:
    return next(iter(entries.values()))


def rename(program: dict[str, Any], old: str, new: str) -> None:
    """Wherever it stands, so that the program is whole."""
    text = json.dumps(program).replace(json.dumps(old), json.dumps(new))
    program.clear()
    program.update(json.loads(text))


STRANGERS = [
    *(sample_inputs, plain_pickle, weights_of_old, constants_of_old, pickled_weight),
    *(with_constant("tensor_9", saved), with_constant("opaque_obj_9", pickled), with_constant("custom_obj_9", saved)),
    *(compiled_library, second_program, older_format),
    *(size, size_called_metadata, guard, operator, operator_of_files),
    *(parameter_name, argument_name, weight_name, structure, structure_of_outputs),
]


def tampered(change: Callable[[Members, Path], None], path: Path, mark: Path) -> None:
    tiny().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members, mark)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name[1:] if name.startswith("/") else f"m/{name}", content)


@pytest.mark.parametrize("change", STRANGERS, ids=lambda change: change.__name__)
def test_nothing_in_a_file_is_run(
    change: Callable[[Members, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mark = tmp_path / "m.lrp.pt2", tmp_path / "ran"
    tampered(change, path, mark)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(FormatError) as raised:
        lrp.load(path)

    assert not mark.exists()
    assert_one_sentence(raised.value)
    assert "could run code" in str(raised.value)
    if change is not structure_of_outputs:
        with pytest.raises(FormatError, match="could run code"):
            lrp.compile(path)
        assert not mark.exists()


def test_every_pickle_in_a_file_is_looked_at(tmp_path: Path) -> None:
    """Whatever archive member torch may come to unpickle: none of those that end in .pt goes by."""
    path, mark = tmp_path / "m.lrp.pt2", tmp_path / "ran"
    seen = []

    def replace_all(members: Members, mark: Path) -> None:
        seen.extend(name for name in members if name.endswith(".pt"))
        members.update({name: saved(mark) for name in seen})

    tampered(replace_all, path, mark)

    with pytest.raises(FormatError, match="could run code"):
        lrp.load(path)
    assert seen
    assert not mark.exists()


def test_an_operator_behind_its_schema_is_none(tmp_path: Path) -> None:
    path, mark = tmp_path / "m.lrp.pt2", tmp_path / "ran"
    tampered(operator_without_a_schema, path, mark)

    with pytest.raises(FormatError):
        lrp.load(path)


def test_a_file_that_was_only_packed_anew_is_loaded(tmp_path: Path) -> None:
    """What is refused above is what was changed, not the packing; that its seal was lost, the last sentence says."""
    tampered(lambda members, mark: None, tmp_path / "m.lrp.pt2", tmp_path / "ran")
    with pytest.raises(FormatError, match="has no seal"):
        lrp.load(tmp_path / "m.lrp.pt2")
    reseal_zip(tmp_path / "m.lrp.pt2")
    x, target = torch.randn(3, 4), torch.tensor([0, 2, 1])

    loaded = lrp.load(tmp_path / "m.lrp.pt2")(x, target=target)

    assert torch.equal(loaded.relevance["input"], tiny()(x, target=target).relevance["input"])


class Odd(nn.Module):
    """What torch writes down that looks like more than it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"1-a": nn.Linear(4, 4), "b c": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        kept = (x > 0) & (x < 2)
        x = torch.einsum("bc,dc->bd", x * kept, self.layers["1-a"].weight) + self.layers["b c"](x)
        x = nn.functional.gelu(x, approximate="tanh")
        wide = nn.functional.interpolate(x[:, None], scale_factor=1.5, mode="linear")
        return {"log-its": x, "wide": wide[:, 0], "counted": x.new_zeros((x.shape[0] + 7) // 2)}


def test_what_torch_writes_for_an_odd_model_is_loaded(tmp_path: Path) -> None:
    net, x = Odd().eval(), torch.randn(4, 4)
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: Dim("batch", max=9)}})
    torch.export.save(program, tmp_path / "m.pt2")

    loaded = load_program(tmp_path / "m.pt2").module()

    fresh = torch.randn(5, 4)
    for name, value in net(fresh).items():
        assert torch.equal(loaded(fresh)[name], value)


# ---- AOTInductor ----


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


# ---- Node ----


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
