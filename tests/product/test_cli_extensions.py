"""`--import MODULE`: a user's own operators and rules on the command line, in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MINE = """
import torch
import lrp_compiler as lrp

@torch.library.custom_op("mine_cli::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x

@doubled.register_fake
def _(x):
    return torch.empty_like(x)

@lrp.rule(torch.ops.mine_cli.doubled.default)
def _(op, relevance):
    return lrp.total(relevance.tensor if relevance.form == "total" else relevance.tensor * op.output)
"""
SAVE = """
import numpy, torch, mine

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.classes = torch.nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.classes(torch.ops.mine_cli.doubled(x))

torch.manual_seed(0)
numpy.save("x.npy", torch.randn(2, 4).numpy())
torch.export.save(torch.export.export(Net().eval(), (torch.randn(2, 4),)), "net.pt2")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lacking.py").write_text("import a_module_that_is_nowhere\n")
    return tmp_path


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # As a shell's script has it: the folder one stands in is not on Python's path.
    start = "import sys; sys.path.pop(0); from lrp_compiler.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", start, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_an_operator_with_a_rule(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", SAVE], cwd=folder, check=True)

    without = call(folder, "coverage", "net.pt2")
    assert without.returncode == 1
    assert "mine_cli" in without.stderr
    assert "--import MODULE" in without.stderr
    assert "Traceback" not in without.stderr

    audit = call(folder, "audit", "net.pt2", "--input", "x.npy", "--import", "mine", "--json")
    assert audit.returncode == 0, audit.stderr
    assert abs(json.loads(audit.stdout)["error"]) < 1e-9


@pytest.mark.slow
def test_an_operator_without_a_rule(folder: Path) -> None:
    """Known to torch, but not to the rules: the command that says so also says where a rule is put."""
    subprocess.run([sys.executable, "-c", SAVE], cwd=folder, check=True)
    op, _ = MINE.split("@lrp.rule")
    (folder / "op_alone.py").write_text(op)

    done = call(folder, "audit", "net.pt2", "--input", "x.npy", "--import", "op_alone")

    assert done.returncode == 1
    assert "@lrp.rule(torch.ops.mine_cli.doubled.default)\n  def rule(op, relevance):" in done.stderr
    assert "--import my_rules" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no module 'nowhere' here or installed"),
        ("mine.nowhere", "there is no module 'mine.nowhere' here or installed"),
        ("mine.py", "without folder and ending: mine."),
        ("lacking", "it imports 'a_module_that_is_nowhere', which is not installed"),
        ("broken", "it fails with ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_sentence(folder: Path, name: str, said: str) -> None:
    done = call(folder, "coverage", "net.pt2", "--import", name)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
