"""Both wheels of the tree: `lrp-compiler`, which is whole, and `lrp-compiler-runtime`, its part without torch and onnx.

    python .release/wheels.py dist

Nothing is listed twice. Version, licence and requirements of both are those of `pyproject.toml`; the modules of the
runtime are read off the sources: what the doors below reach, by imports anywhere in a module, of what can be imported
where torch and onnx are not. Needs nothing but pip.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"lrp_compiler": "lrp_compiler", "lrp_compiler.passes": "passes", "lrp_compiler.rules": "rules"}
"""Package → its folder in the tree."""
NAME = "lrp-compiler-runtime"
DOORS = (
    "lrp_compiler",
    "lrp_compiler.__main__",
    "lrp_compiler.runtime",
    "lrp_compiler.concepts",
    "lrp_compiler.data",
    "lrp_compiler.serving",
    "lrp_compiler.errors",
)
"""What one imports of the runtime, or runs."""
HEAVY = ("torch", "onnx", "onnxscript", "onnx_ir")
"""Packages that the runtime does without."""
NEEDS = ("numpy", "onnxruntime", "rich")
EXTRAS = ("plots", "openvino", "data", "ray", "summary", "serve")
DATA = ("py.typed", "web/*", "web/node/*")
"""Files of the package that are no modules: all but the page of the graphs, which needs these."""


def main(target: str) -> None:
    """Build both wheels into a folder."""
    build(ROOT, target)
    build_runtime(target)


def build_runtime(target: str) -> None:
    """The runtime's wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        stage(Path(folder), project)
        build(Path(folder), target)


def build(tree: Path, target: str) -> None:
    """One wheel. What an earlier build left in the tree is no part of it."""
    shutil.rmtree(tree / "build" / "lib", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", target, str(tree)], check=True)


def stage(folder: Path, project: dict[str, Any]) -> None:
    """The runtime's own tree: its modules, and a project file made of the whole one's."""
    chosen = runtime_modules()
    for module in chosen:
        copied = folder / path_in_package(module)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(modules()[module], copied)
    for pattern in DATA:
        for file in filter(Path.is_file, (ROOT / "lrp_compiler").glob(pattern)):
            copied = folder / "lrp_compiler" / file.relative_to(ROOT / "lrp_compiler")
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    (folder / "pyproject.toml").write_text(project_file(project, chosen), encoding="utf-8")


def project_file(whole: dict[str, Any], chosen: list[str]) -> str:
    """The runtime's `pyproject.toml`."""
    about = whole["project"]
    kept = ("dynamic", "requires-python", "license", "license-files", "classifiers", "keywords", "scripts")
    project = {
        "name": NAME,
        "description": "Runs what lrp-compiler compiles: predictions and their explanations, without torch.",
        "readme": {"text": README, "content-type": "text/markdown"},
        "dependencies": [entry for entry in about["dependencies"] if _name(entry) in NEEDS],
        "optional-dependencies": {name: about["optional-dependencies"][name] for name in EXTRAS},
        **{key: about[key] for key in kept},
    }
    packages = [module for module in chosen if is_package(module)]
    setuptools = {
        "packages": packages,
        "package-data": {"lrp_compiler": list(DATA)},
        "dynamic": whole["tool"]["setuptools"]["dynamic"],
    }
    parts = {"build-system": whole["build-system"], "project": project, "tool.setuptools": setuptools}
    return "\n".join(line for name, table in parts.items() for line in _toml(name, table)) + "\n"


README = (
    "The part of [lrp-compiler](https://pypi.org/project/lrp-compiler/) that runs explainers: ONNX files that predict "
    "and say what the prediction rests on. It needs numpy, onnxruntime and rich, not torch.\n\n"
    "```python\nfrom lrp_compiler.runtime import OnnxExplainer\n\n"
    'with OnnxExplainer("model.lrp.onnx") as explainer:\n    explainer(x).relevance["x"]\n```\n'
)


def _name(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0].strip()


def _toml(name: str, table: dict[str, Any]) -> Iterator[str]:
    """A table as TOML, of which JSON's texts and lists are a part."""
    yield f"[{name}]"
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    yield from (f"{key} = {json.dumps(value)}" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml(f"{name}.{json.dumps(key)}", value)


@cache
def modules() -> dict[str, Path]:
    """Module → file, of the whole package."""
    found = {}
    for package, folder in PLACES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def path_in_package(module: str) -> Path:
    """Where a module lies once it is installed."""
    path = Path(*module.split("."))
    return path / "__init__.py" if is_package(module) else path.with_suffix(".py")


def is_package(module: str) -> bool:
    """Whether it is a folder's `__init__`."""
    return modules()[module].name == "__init__.py"


@cache
def runtime_modules() -> list[str]:
    """The modules of the runtime."""
    found: set[str] = set()
    waiting = list(DOORS)
    while waiting:
        module = waiting.pop()
        if module not in found and module in modules() and stands_alone(module):
            found.add(module)
            waiting += imported(module, at_once=False)
    empty = {one for one in found if is_package(one) and not any(other.startswith(f"{one}.") for other in found)}
    return sorted(found - empty)


@cache
def stands_alone(module: str) -> bool:
    """Whether a module can be imported without the heavy packages."""
    seen, waiting = {module}, [module]
    while waiting:
        more = imported(waiting.pop(), at_once=True) - seen
        if any(name.partition(".")[0] in HEAVY for name in more):
            return False
        seen |= more
        waiting += [name for name in more if name in modules()]
    return True


@cache
def imported(module: str, at_once: bool) -> frozenset[str]:
    """What a module imports, with the packages around it: when it is imported itself, or at any time."""
    path = modules()[module]
    package = module if is_package(module) else module.rpartition(".")[0]
    names = {module}
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_once):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names]
    around = {".".join(part[: number + 1]) for part in parts for number in range(len(part))}
    return frozenset(name for name in around if name in modules() or name.partition(".")[0] != "lrp_compiler") - {
        module
    }


def _statements(tree: ast.AST, at_once: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports in a tree; at once: outside of functions, and not for types alone."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        later |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (at_once and later):
            yield from _statements(node, at_once)


if __name__ == "__main__":
    main(sys.argv[1])
