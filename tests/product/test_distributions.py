"""Two wheels from one tree: the runtime holds what runs without torch and onnx, and says of the rest where it is."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from wheels import HEAVY, is_package, main, modules, path_in_package, runtime_modules, stage

import lrp_compiler as lrp
from lrp_compiler import errors
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InstallError
from lrp_compiler.base.installed import check_versions, lacking

ROOT = Path(__file__).resolve().parents[2]
BARE = (
    "import sys\n"
    f"HEAVY = {HEAVY!r}\n"
    "class Absent:\n"
    "    def find_spec(name, path=None, target=None):\n"
    "        if name.partition('.')[0] in HEAVY:\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Absent)\n"
)
"""A process without the heavy packages."""
ALONE = "sys.meta_path[:] = [finder for finder in sys.meta_path if '__editable__' not in repr(finder)]\n"
"""One in which the tree that is tested is not found either."""
COMMAND = "from lrp_compiler.cli import main\nraise SystemExit(main())"
ROOMS = ("runtime", "cli", "concepts", "check.verify", "website.page", "pictures.heatmap", "pictures.token_rows")
WHOLE = f"pip install lrp-compiler=={lrp.__version__}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.pt2`, its explainers, inputs, and what the explainer says of them here."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    x = torch.randn(4, 5)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    explainer = lrp.compile(folder / "model.pt2", composite="epsilon", target="index")
    explainer.to_onnx(folder / "m.lrp.onnx")
    explainer.save(folder / "m.lrp.pt2")
    np.save(folder / "x.npy", x.numpy())
    np.save(folder / "relevance.npy", explainer(x, target=1).relevance["input"].numpy())
    return folder


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's tree, as its wheel is built from it."""
    folder = tmp_path_factory.mktemp("staged")
    stage(folder, tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    return folder


Run = Callable[..., tuple[int, str, str]]


def finished(command: list[str], folder: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def bare(staged: Path, files: Path) -> Run:
    """Run code in the runtime's tree, in a process without the heavy packages."""

    def run(code: str, *arguments: str) -> tuple[int, str, str]:
        return finished([sys.executable, "-c", BARE + ALONE + code, *arguments], files, PYTHONPATH=str(staged))

    return run


@pytest.mark.slow
def test_the_runtime_is_what_can_be_imported_without_torch_and_onnx(bare: Run) -> None:
    """Each module of it really is imported; of the others the doors of the whole package really are not."""
    names = [name for name in runtime_modules() if not name.endswith("__main__")]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\nprint(sys.modules.keys() & HEAVY)"

    assert bare(code) == (0, "set()\n", "")
    assert {f"lrp_compiler.{name}" for name in ROOMS} <= set(names)


def test_what_the_runtime_reaches_and_leaves_out_needs_torch_or_onnx() -> None:
    """Nothing else is left out of a room that the runtime has, but for what only the rest of the package uses."""
    chosen = set(runtime_modules())
    rooms = {name for name in chosen if is_package(name)}
    left_out = {name for name in modules() if name.rpartition(".")[0] in rooms} - chosen - {"lrp_compiler.base"}
    used_by_the_whole = {f"lrp_compiler.base.{name}" for name in ("collection", "held", "names")}
    assert used_by_the_whole <= left_out
    doubtful = sorted(name for name in left_out - used_by_the_whole if not is_package(name))
    code = (
        "import importlib\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error: print(name, error.name.partition('.')[0] in HEAVY)\n"
    )
    done = subprocess.run([sys.executable, "-c", BARE + code, *doubtful], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} True" for name in doubtful]


def test_it_explains_and_shows_its_progress(bare: Run, files: Path) -> None:
    code = (
        "import numpy as np\n"
        "from lrp_compiler.runtime import OnnxExplainer\n"
        "with OnnxExplainer('m.lrp.onnx') as explainer:\n"
        "    explanation = explainer(np.load('x.npy'), target=1, batch_size=2, progress=True)\n"
        "np.save('found.npy', explanation.relevance['input'])\n"
    )
    code, _, err = bare(code)
    assert code == 0, err
    assert "4/4" in err
    np.testing.assert_allclose(np.load(files / "found.npy"), np.load(files / "relevance.npy"), rtol=1e-5, atol=1e-6)


def test_verify_runs_what_it_can_and_says_what_it_left_out(bare: Run) -> None:
    code, out, err = bare(COMMAND, "verify", "m.lrp.onnx", "--json")
    assert code == 0, err
    found = {check["name"]: (check["passed"], check["found"]) for check in json.loads(out)["checks"]}
    assert all(found[name][0] is True for name in ("content", "metadata", "runs", "repeats", "rows"))
    for name in ("checker and shape inference", "contract", "provenance"):
        assert found[name] == (None, f"needs onnx: {WHOLE}")


def test_a_command_that_needs_torch_says_so_in_one_sentence(bare: Run) -> None:
    commands = (
        "compile model.pt2 -o new.lrp.onnx",
        "plan model.pt2",
        "coverage model.pt2",
        "inspect m.lrp.pt2",
        "audit m.lrp.pt2 --input x.npy",
        "run m.lrp.pt2 --input x.npy --target 1 -o r.npz",
        "verify m.lrp.pt2",
        "verify m.lrp.onnx --against model.pt2",
    )
    code, out, err = bare(
        "from lrp_compiler.cli import main\n"
        f"for command in {commands!r}:\n"
        "    assert main(command.split()) == 1, command\n"
    )
    assert (code, out) == (0, "")
    assert len(err.splitlines()) == len(commands)
    for line in err.splitlines():
        assert line.startswith("lrp-compiler: error: Cannot ")
        assert line.endswith(f" without torch, which lrp-compiler-runtime leaves out: {WHOLE}.")


def test_a_public_name_that_needs_torch_says_so(bare: Run) -> None:
    code = (
        "import lrp_compiler\n"
        f"for name in {lrp.__all__!r}:\n"
        "    try: getattr(lrp_compiler, name)\n"
        "    except lrp_compiler.base.errors.InstallError as error: print(error)\n"
        "    else: print(name)\n"
    )
    there = {"AnswerExplanation", "Explanation", "OnnxExplainer", "open_split", "page", "verify", *errors.__all__}
    assert bare(code)[1].splitlines() == [
        name
        if name in there
        else f"Cannot use lrp_compiler.{name} without torch, which lrp-compiler-runtime leaves out: {WHOLE}."
        for name in lrp.__all__
    ]


@pytest.mark.parametrize("line", ["import lrp_compiler.compiler", "from lrp_compiler import rules"])
def test_a_module_that_is_left_out_says_so(line: str, bare: Run) -> None:
    _, _, err = bare(line)
    assert "is no part of lrp-compiler-runtime, which leaves out all that needs torch" in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith(f"{WHOLE}.")


def test_without_torch_the_whole_package_says_what_installs_it(files: Path) -> None:
    code = BARE + "import lrp_compiler\nlrp_compiler.compile"
    _, _, err = finished([sys.executable, "-c", code], files)
    assert err.splitlines()[-1].endswith(f"Cannot use lrp_compiler.compile without torch: {WHOLE}.")


@pytest.mark.parametrize("kind", [RuntimeError, ImportError])
def test_a_torchvision_of_another_build_than_torch_is_said_to_be_so(kind: type[Exception]) -> None:
    """As torchvision raises it, and as transformers hands it on."""
    raised = kind("Failed to import what was asked for: operator torchvision::nms does not exist")
    with (
        pytest.raises(InstallError, match=r"torchvision is of another build than torch.* in one command"),
        boundary("do"),
    ):
        raise raised


def test_only_packages_of_the_project_are_spoken_for() -> None:
    assert lacking(ModuleNotFoundError(name="rich.console"), "show it").args == (
        "Cannot show it without rich: pip install rich.",
    )
    assert lacking(ModuleNotFoundError(name="somebody"), "show it") is None
    assert lacking(ModuleNotFoundError(name="lrp_compiler.misspelt"), "show it") is None
    assert lacking(ValueError(), "show it") is None


@pytest.mark.parametrize(("versions", "refused"), [(("0.1.0", "0.1.0"), False), (("0.1.0", "0.2.0"), True)])
def test_two_versions_over_one_another_are_refused(versions: tuple[str, str], refused: bool, tmp_path: Path) -> None:
    for name, version in zip(("lrp_compiler", "lrp_compiler_runtime"), versions, strict=True):
        (tmp_path / f"{name}-{version}.dist-info").mkdir()
    (tmp_path / "lrp_compiler_of_somebody-9.dist-info").mkdir()
    if not refused:
        check_versions(str(tmp_path))
        return
    with pytest.raises(InstallError, match=r"lrp-compiler 0\.1\.0 and lrp-compiler-runtime 0\.2\.0 have written over"):
        check_versions(str(tmp_path))


@pytest.mark.parametrize("code", ["import lrp_compiler", "from lrp_compiler.cli import main\nmain(['--help'])"])
def test_little_is_imported_before_something_is_asked_for(code: str) -> None:
    """What takes time: a process that only asks for help need not pay for it."""
    heavy = {"numpy", "onnxruntime", "rich", "asyncio", "importlib.metadata", *HEAVY}
    program = f"import sys\ntry:\n    {code.replace(chr(10), chr(10) + '    ')}\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", program + f"print(sys.modules.keys() & {heavy!r}, file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "set()\n"


def test_the_runtime_asks_for_three_packages(staged: Path) -> None:
    whole, part = (tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")) for folder in (ROOT, staged))
    needed = part["project"]["dependencies"]
    assert [entry.partition(">")[0] for entry in needed] == ["onnxruntime", "numpy", "rich"]
    assert set(needed) <= set(whole["project"]["dependencies"])
    assert part["project"]["name"] == "lrp-compiler-runtime"


@pytest.mark.heavy
def test_each_wheel_runs_in_an_empty_environment(tmp_path: Path, files: Path) -> None:
    """As its user has it; the whole one beside this environment's torch, which is not installed again."""
    main(str(tmp_path / "dist"))
    wheels = {path.name.partition("-")[0]: path for path in (tmp_path / "dist").glob("*.whl")}
    assert set(wheels) == {"lrp_compiler", "lrp_compiler_runtime"}
    packed = {name: set(zipfile.ZipFile(path).namelist()) for name, path in wheels.items()}
    assert {str(path_in_package(name)) for name in modules()} <= packed["lrp_compiler"]
    assert {str(path_in_package(name)) for name in runtime_modules()} <= packed["lrp_compiler_runtime"]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python, program = (str(tmp_path / "env" / "bin" / name) for name in ("python", "lrp-compiler"))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, str(wheels["lrp_compiler_runtime"])], check=True)

    code, _, err = finished([program, "run", "m.lrp.onnx", "--input", "x.npy", "--target", "1", "-o", "r.npz"], files)
    assert code == 0, err
    relevance = np.load(files / "r.npz")["relevance.input"]
    np.testing.assert_allclose(relevance, np.load(files / "relevance.npy"), rtol=1e-5, atol=1e-6)
    assert finished([program, "verify", "m.lrp.onnx"], files)[0] == 0
    code, out, _ = finished([program, "--help"], files)
    assert (code, "verify" in out) == (0, True)
    code, _, err = finished([program, "compile", "model.pt2", "-o", "new.lrp.onnx"], files)
    assert (code, err.count("\n"), WHOLE in err) == (1, 1, True)
    code, _, err = finished([python, "-c", "import lrp_compiler\nlrp_compiler.compile"], files)
    assert err.splitlines()[-1].endswith(f"{WHOLE}.")

    subprocess.run([*install, "--no-deps", str(wheels["lrp_compiler"])], check=True)  # torch is not there
    code, _, err = finished([program, "compile", "model.pt2", "-o", "new.lrp.onnx"], files)
    assert (code, err.count("\n"), f"without torch: {WHOLE}" in err) == (1, 1, True)
    assert finished([program, "verify", "m.lrp.onnx"], files)[0] == 0
    site = next((tmp_path / "env").rglob("lrp_compiler_runtime-*.dist-info"))
    lent = site.with_name("lent.pth")
    lent.write_text(sysconfig.get_path("purelib"), encoding="utf-8")  # torch and onnx; not what only tests this tree
    code, _, err = finished([program, "compile", "model.pt2", "-o", "new.lrp.onnx", "--target", "1"], files)
    assert code == 0, err
    code, out, err = finished([program, "verify", "new.lrp.onnx", "--against", "model.pt2", "--json"], files)
    assert code == 0, err
    assert all(check["passed"] for check in json.loads(out)["checks"])
    assert finished([python, "-c", "import lrp_compiler as lrp; print(lrp.__file__)"], files)[1].startswith(
        str(tmp_path)
    )
    lent.unlink()
    site.rename(site.with_name("lrp_compiler_runtime-0.0.9.dist-info"))
    _, _, err = finished([python, "-c", "import lrp_compiler"], files)
    assert "have written over each other's files" in err.splitlines()[-1]
