"""Build what is published and try it where nothing else is: `make release`.

    python .release/release.py dist

The source distribution, the wheel that is built from it, and the runtime's wheel; `twine check` reads all three. Two
environments that follow hold a wheel and what it asks for, and no line of this tree: one compiles a small network into
an ONNX file, the other, without torch, explains it. The release's notes are its part of CHANGELOG.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import wheels

ROOT = wheels.ROOT
KINDS = ("Added", "Changed", "Faster", "Fixed", "Deprecated", "Removed", "Measured")
"""What the changelog tells apart."""
COMPILE = """
import numpy as np, torch, lrp_compiler as lrp
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 5)
).eval()
x = torch.randn(2, 3, 8, 8)
explainer = lrp.compile(net, (x,), composite="epsilon", dynamic_shapes=({0: torch.export.Dim("batch")},))
explainer.to_onnx("net.lrp.onnx")
found = explainer(x)
assert not explainer.audit(x).suspects()
np.savez("expected.npz", x=x.numpy(), output=found.output.numpy(), relevance=found.relevance["input"].numpy())
"""
EXPLAIN = """
import importlib.util, numpy as np
from lrp_compiler.runtime import OnnxExplainer
assert importlib.util.find_spec("torch") is None
expected = np.load("expected.npz")
with OnnxExplainer("net.lrp.onnx") as explainer:
    found = explainer(expected["x"])
for name, values in (("output", found.output), ("relevance", found.relevance["input"])):
    np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())
found.image().save("relevance.png")
print(f"relevance of {found.relevance['input'].shape}, as in torch")
"""


def main(target: str) -> None:
    """Build, check, try, and write the notes, into a folder that is emptied first."""
    folder = Path(target).resolve()
    text = notes(version(), (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    built = build(folder)
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built))
    try_out(folder)
    (folder / "notes.md").write_text(text, encoding="utf-8")
    print("\n".join(["Ready to be published:", *(f"  {path.name}" for path in sorted(folder.iterdir()))]))


def version() -> str:
    """The one of the tree."""
    content = (ROOT / "lrp_compiler" / "base" / "version.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', content, re.MULTILINE)[0]


def notes(release: str, changelog: str) -> str:
    """The changelog's part of a release.

    Raises:
        ValueError: it has none, or a heading in it is no kind.
    """
    parts = re.split(r"^## (.+)$", changelog, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if release not in found:
        raise ValueError(f"CHANGELOG.md has no part '## {release}': the newest is {parts[1] if parts[1:] else 'none'}.")
    unknown = [kind for kind in re.findall(r"^### (.+)$", found[release], re.MULTILINE) if kind not in KINDS]
    if unknown:
        raise ValueError(f"CHANGELOG.md: {unknown[0]!r} of {release} is none of {', '.join(KINDS)}.")
    return f"# {release}\n\n{found[release].strip()}\n"


def build(folder: Path) -> list[Path]:
    """All distributions."""
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    wheels.build_runtime(str(folder))
    (whole,) = folder.glob("lrp_compiler-*.whl")
    lacking = {str(wheels.path_in_package(name)) for name in wheels.modules()} - set(zipfile.ZipFile(whole).namelist())
    if lacking:
        raise ValueError(f"{whole.name} lacks {', '.join(sorted(lacking))}: is a package missing in pyproject.toml?")
    return sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])


def try_out(folder: Path) -> None:
    """Install each wheel where nothing is, and use it."""
    with tempfile.TemporaryDirectory() as scratch:
        for wheel, code in (("lrp_compiler-", COMPILE), ("lrp_compiler_runtime-", EXPLAIN)):
            (path,) = folder.glob(f"{wheel}*.whl")
            venv.create(Path(scratch) / wheel, with_pip=True)
            python = str(Path(scratch) / wheel / "bin" / "python")
            constraints = str(ROOT / "constraints.txt")
            run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, str(path))
            run(python, "-c", code, cwd=scratch)


def run(*command: str, cwd: str | None = None) -> None:
    """Run a command; what it prints is shown, and that it fails is an error."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=cwd, env=kept)


if __name__ == "__main__":
    main(sys.argv[1])
