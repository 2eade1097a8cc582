"""What a newcomer adds to the compiler costs one place: each kind of extension is made here, and used from outside."""

import argparse
import ast
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_compiler as lrp
from lrp_compiler.artefact import Artefact
from lrp_compiler.base.files import atomic_path
from lrp_compiler.capture import load_program
from lrp_compiler.cli import main
from lrp_compiler.cli.commands import COMMANDS
from lrp_compiler.cli.reporting import report
from lrp_compiler.errors import UnsupportedOpError
from lrp_compiler.formats import MODELS, OUTPUTS, Output
from lrp_compiler.passes import optimise, pipeline
from lrp_compiler.passes.graph import Result, assignment, call_like
from lrp_compiler.rules import FACTS, OPERATORS, RULES, Fact, Op, Relevance
from lrp_compiler.rules.elementwise import Quotient, elementwise, safe_quotient
from lrp_compiler.rules.linear_map import LinearMap, Message, hand_on
from lrp_compiler.rules.registry import Flow, family_rule

aten = torch.ops.aten
X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, function: Any = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def net(function: Any = torch.relu) -> nn.Module:
    return Net(function).double().eval()


def test_a_new_op_is_one_function() -> None:
    with pytest.raises(UnsupportedOpError, match=r"aten\.special_i1\.default"):
        lrp.compile(net(torch.special.i1), (X,))

    # ── the extension: rules/operators/functions.py
    @elementwise(aten.special_i1.default)
    def bessel(op: Op) -> Quotient:
        """I₁(x), with the slope ½ at 0."""
        return lambda: safe_quotient(op.output, op.tensor("self"), 0.5)

    # ──
    try:
        explainer = lrp.compile(net(torch.special.i1), (X,), composite="attnlrp", target=0)
        assert abs(explainer.audit(X).error) < 1e-12
    finally:
        del OPERATORS[aten.special_i1.default]


def test_a_new_rule_is_one_function_for_every_linear_map() -> None:
    # ── the extension: rules/linear_map.py
    @family_rule("linear map", "halves")
    def halves(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
        """Half of what the transpose hands back; the rest is absorbed."""
        g = op.quotient(relevance, 0.0)
        op.absorb("halved", lambda: op.total(relevance) / 2)
        return hand_on(op, linear, lambda part: [Message(g / 2, part.weight())], linear.constants)

    # ──
    try:
        mine = lrp.Composite("mine", (lrp.Entry("linear", "halves"),))
        explainer = lrp.compile(net(), (X,), composite=mine, target=0)
        limit = lrp.compile(net(), (X,), composite=lrp.composites.attnlrp(), target=0)
        torch.testing.assert_close(explainer(X).relevance["x"] * 4, limit(X).relevance["x"])
        assert abs(explainer.audit(X).error) < 1e-12
    finally:
        del RULES["linear map", "halves"]


def test_a_new_rewrite_is_a_file_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    # ── the extension: passes/optimise/square_by_product.py
    def square_by_product(module: fx.GraphModule) -> Result:
        """`pow(x, 2)` → `mul(x, x)`."""
        found = module.graph.find_nodes(op="call_function", target=aten.pow.Tensor_Scalar)
        declined = [(node.name, f"its exponent is {node.args[1]}") for node in found if node.args[1] != 2]
        for node in found:
            if node.args[1] == 2:
                with module.graph.inserting_before(node):
                    node.replace_all_uses_with(
                        call_like(module.graph, node, aten.mul.Tensor, node.args[0], node.args[0])
                    )
                module.graph.erase_node(node)
        return Result(module, bool(found), declined)

    # ── and the entry in passes/optimise/__init__.py
    monkeypatch.setattr(pipeline, "OF_JOINT", (*optimise.OF_JOINT, square_by_product))
    explainer = lrp.compile(net(lambda x: x**2 + x**3), (X,), target=0)

    powers = [node.args[1] for node in explainer.module.graph.nodes if node.target is aten.pow.Tensor_Scalar]
    assert powers
    assert 2 not in powers
    torch.testing.assert_close(explainer(X).output, net(lambda x: x**2 + x**3)(X))


def test_a_new_analysis_is_a_file_and_an_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # ── the extension: the fact stands with the rule that reads it, the analysis in passes/assign/repeated.py
    repeated: Fact[bool] = Fact("repeated", False)

    def mark_repeated(module: fx.GraphModule) -> None:
        """Operations whose result several others read."""
        for node in module.graph.nodes:
            if (given := assignment(node)) is not None:
                given.know(repeated, len(node.users) > 1)

    # ── and the entry in passes/assign/analyse.py
    home = sys.modules["lrp_compiler.passes.assign.analyse"]
    monkeypatch.setattr(home, "ANALYSES", (*home.ANALYSES, mark_repeated))
    try:
        explainer = lrp.compile(net(lambda x: torch.relu(x) + x), (X,), target=0)
        explainer.save(tmp_path / "m.lrp.pt2")
        for each in (explainer, lrp.load(tmp_path / "m.lrp.pt2")):
            marked = [node.name for node in each.forward.graph.nodes if (a := assignment(node)) and a.facts[repeated]]
            assert marked == ["linear"]
    finally:
        del FACTS["repeated"]


def write_listing(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """The extension: `lrp_compiler/export/listing.py`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(artefact.about.to_dict()), encoding="utf-8")


def read_renamed(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """The extension: `lrp_compiler/capture/renamed.py`."""
    return load_program(path)


def test_a_new_output_format_is_a_file_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.export.save(torch.export.export(net(), (X,)), tmp_path / "m.pt2")

    monkeypatch.setitem(OUTPUTS, ".json", Output(f"{__name__}:write_listing"))  # the entry in lrp_compiler/formats.py

    assert main(["compile", str(tmp_path / "m.pt2"), "-o", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["composite"]["name"] == "epsilon"


def test_a_new_input_format_is_a_file_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.export.save(torch.export.export(net(), (X,)), tmp_path / "m.program")

    monkeypatch.setitem(MODELS, ".program", f"{__name__}:read_renamed")  # the entry in lrp_compiler/formats.py

    torch.testing.assert_close(lrp.compile(tmp_path / "m.program")(X).output, net()(X))


class Size:
    """The extension: `lrp_compiler/cli/commands/size.py`."""

    PURPOSE = "say how large a file is"
    EXAMPLE = "lrp-compiler size model.pt2"

    @staticmethod
    def add_options(command: argparse.ArgumentParser) -> None:
        """The file."""
        command.add_argument("file", type=Path)

    @staticmethod
    def do(arguments: argparse.Namespace) -> None:
        """Look it up."""
        report(arguments, {"bytes": arguments.file.stat().st_size}, f"{arguments.file.stat().st_size} bytes")


def test_a_new_command_is_a_file_and_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.pt2").write_bytes(b"four")

    monkeypatch.setitem(COMMANDS, "size", Size)  # the entry in lrp_compiler/cli/commands/__init__.py

    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(rf"size +{Size.PURPOSE}", capsys.readouterr().out)
    assert main(["size", str(tmp_path / "m.pt2")]) == main(["size", str(tmp_path / "m.pt2"), "--json"]) == 0
    assert capsys.readouterr().out == '4 bytes\n{\n  "bytes": 4\n}\n'
    assert main(["size", str(tmp_path / "absent.pt2")]) == 1
    assert capsys.readouterr().err.startswith("lrp-compiler: error: ")


def test_what_contributing_shows_is_what_is_made_here() -> None:
    here = Path(__file__)
    text = (here.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    made = {ast.dump(node) for node in ast.walk(ast.parse(here.read_text(encoding="utf-8")))}

    shown = [ast.parse(block).body for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]

    assert len(shown) == 3
    assert all(ast.dump(node) in made for body in shown for node in body)
