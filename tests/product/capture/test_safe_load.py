"""Nothing in a file is run, whatever it is and whoever packed it."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.sealed import reseal_zip
from support.tiny import assert_one_sentence, tiny
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError
from lrp_compiler.capture.capture import load_program

Members = dict[str, bytes]


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


@pytest.mark.slow
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
