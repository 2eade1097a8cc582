"""The house: floors point down, nothing goes in circles, and the ground needs no torch.

Every import counts, also those inside functions and those for types alone.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import lrp_compiler as lrp

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"rules": "lrp_compiler.rules", "passes": "lrp_compiler.passes", "lrp_compiler": "lrp_compiler"}
FLOORS = (
    "lrp_compiler.base",
    "lrp_compiler.torch_private",
    "lrp_compiler.rules",
    "lrp_compiler.passes",
    "lrp_compiler",
)
"""From the ground up; a module stands on the first that names it."""
ROOMS = ("graph", "reroll", "decompose", "forward", "assign", "relevance", "promises", "optimise", "joint")
"""Of `passes/`, each of which may use those before it."""
TORCH_FREE = (
    "base",
    "data",
    "serving",
    "pictures",
    "website",
    "runtime",
    "explanation",
    "answers",
    "answering",
    "concepts",
    "formats",
    "errors",
    "cli",
)
"""Of `lrp_compiler/`: they are imported where torch is absent."""


@cache
def modules() -> dict[str, Path]:
    """Module name → file, of the whole library."""
    found = {}
    for folder, package in PLACES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, as the names of modules: of the library in full, of other packages the first part."""
    return named(module, ast.walk(tree(module)))


@cache
def at_once(module: str) -> frozenset[str]:
    """What is imported when the module is: with every module the packages that it lies in."""
    found = named(module, run_at_once(tree(module))) | {module}
    parts = [name.split(".") for name in found]
    return found | {".".join(each[:count]) for each in parts for count in range(1, len(each))} - {module}


def run_at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions, and what is there for types alone."""
    for inner in ast.iter_child_nodes(node):
        for_types = isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test)
        if not for_types and not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield inner
            yield from run_at_once(inner)


def named(module: str, nodes: Iterable[ast.AST]) -> frozenset[str]:
    """The modules that a module's imports among these mean."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in modules() and alias.name not in handed_on(source) else source)
    return frozenset(name if name in modules() else name.partition(".")[0] for name in found)


@cache
def handed_on(package: str) -> frozenset[str]:
    """The names that a package's `__init__` takes from its modules: `from package import name` means these."""
    path = modules().get(package)
    if path is None or path.name != "__init__.py":
        return frozenset()
    sources = [node for node in tree(package).body if isinstance(node, ast.ImportFrom) and node.module]
    return frozenset(alias.name for node in sources for alias in node.names)


def circles() -> Iterator[list[str]]:
    """Modules that import one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(imports(module) & modules().keys() - {module}):
            if other not in order:
                yield from visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            together = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(together) > 1:
                yield sorted(together)

    for module in modules():
        if module not in order:
            yield from visit(module)


def floor(module: str) -> int:
    return next(number for number, name in enumerate(FLOORS) if module == name or module.startswith(f"{name}."))


@pytest.mark.slow
def test_nothing_is_imported_in_a_circle() -> None:
    assert list(circles()) == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_floors_point_down(module: str) -> None:
    own = imports(module) & modules().keys()

    assert {other for other in own if floor(other) > floor(module)} == set()


def test_the_rooms_of_the_passes_use_those_before_them() -> None:
    place = {room: number for number, room in enumerate(ROOMS)}
    for module in modules():
        parts = module.split(".")
        if parts[:2] != ["lrp_compiler", "passes"] or len(parts) < 3 or parts[2] not in place:
            continue
        for other in imports(module) & modules().keys():
            room = other.split(".")[2] if other.startswith("lrp_compiler.passes.") else parts[2]
            assert room in place, f"{module} imports {other}, which puts the passes together"
            assert place[room] <= place[parts[2]], f"{module} imports {other}"


def test_a_room_is_entered_by_its_door() -> None:
    """What others may use of a room is what its `__init__` hands on."""
    rooms = {f"lrp_compiler.passes.{room}" for room in ROOMS}
    for module in modules():
        for other in imports(module) & modules().keys():
            room = other.rpartition(".")[0]
            assert room not in rooms or module.startswith(room), f"{module} imports {other}: import it from {room}"


def test_the_ground_and_the_runtime_import_no_torch() -> None:
    waiting = [m for m in modules() if m.startswith("lrp_compiler.") and m.split(".")[1] in TORCH_FREE]
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        if module.startswith(("lrp_compiler.rules", "lrp_compiler.passes", "lrp_compiler.torch_private")):
            pytest.fail(f"{module} is reached from what must not import torch")
        assert "torch" not in imports(module), module
        # What a command does when it is called may need torch; `import_time` looks at what is imported at once.
        more = at_once(module) & modules().keys() - seen
        seen |= more
        waiting += more


@pytest.mark.parametrize(
    "module", ["lrp_compiler.website.page", pytest.param("lrp_compiler.rules", marks=pytest.mark.heavy)]
)
def test_what_is_imported_at_once_is_what_python_imports(module: str) -> None:
    """The rooms above are read, not run: relative imports and modules taken from packages must not be passed over."""
    seen, waiting = {module}, [module]
    while waiting:
        more = at_once(waiting.pop()) & modules().keys() - seen
        seen |= more
        waiting += more

    code = f"import sys, {module}; print(*(name for name in sys.modules if name.partition('.')[0] == 'lrp_compiler'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert seen == set(done.stdout.split())


OF_OPS = ("_opname", "_schema", "_overloadname", "_overloadpacket")
"""What torch's operators keep to themselves, and `torch_private` reads."""


def test_torchs_private_corners_stand_in_one_room() -> None:
    for module in modules():
        if module.startswith("lrp_compiler.torch_private"):
            continue
        for node in ast.walk(tree(module)):
            names = []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            private = [
                n
                for n in names
                if n.startswith(("torch._", "torch.utils._", "torch.fx.experimental")) and not n.startswith("torch.__")
            ]
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self":
                private += [node.attr] if node.attr in OF_OPS else []
            if isinstance(node, ast.Constant) and node.value in OF_OPS:
                private.append(node.value)
            assert private == [], f"{module}, line {getattr(node, 'lineno', 0)}"


def test_no_pass_compares_shapes_of_symbolic_values_by_equality() -> None:
    """Where a size is open, `==` fixes it: `same_shape` and `has_shape` ask what is known."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("passes", "rules")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r'(meta\["val"\]|\bvalue|\br|\bone)\.shape\b [!=]=', line)
    ]

    assert found == []


def test_no_folder_and_no_file_takes_a_public_name() -> None:
    taken = {module.split(".")[1] for module in modules() if module.count(".") == 1}

    assert taken & set(lrp.__all__) == set()


def test_a_newcomer_is_not_lost() -> None:
    for folder, most in (("passes", 12), ("lrp_compiler", 16)):
        files = [path.name for path in (ROOT / folder).glob("*.py")]
        assert len(files) <= most, files


TESTED_ELSEWHERE = {"passes/options.py": "data without behaviour; `test_pipeline.py` and the product hand it over"}
"""Modules of the passes that need no test of their own, and why."""


def test_every_pass_has_a_test_of_its_own() -> None:
    passes = {path.relative_to(ROOT) for path in (ROOT / "passes").rglob("*.py") if path.name != "__init__.py"}
    missing = {str(path) for path in passes if not (ROOT / "tests" / path.with_name(f"test_{path.name}")).exists()}

    assert missing == TESTED_ELSEWHERE.keys()


def test_every_package_is_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {module for module, path in modules().items() if path.name == "__init__.py"}

    assert {package for package in packages if f'"{package}",' not in text} == set()


@pytest.mark.slow
def test_compiling_imports_nothing_of_what_writes_onnx() -> None:
    script = (
        "import sys, torch, lrp_compiler as lrp\n"
        "lrp.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(2, 3),), composite='epsilon')(torch.randn(2, 3))\n"
        "print('onnxscript' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False"]
