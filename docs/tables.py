"""What reference pages take from the code: rules, kinds, composites, and the command line.

    python docs/tables.py rules

prints what the site shows in `docs/pages/reference/rules.md`.
"""

from __future__ import annotations

import argparse
import html
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from lrp_compiler.cli import make_parser
from lrp_compiler.passes.assign.choose_composite import CHOICES
from lrp_compiler.rules.composite import Composite
from lrp_compiler.rules.composites import COMPOSITES
from lrp_compiler.rules.registry import OPERATORS, RULES, USERS, rules_of

HIDDEN = {"op", "relevance"}
"""What every rule is given."""


def rules() -> str:
    """Every rule, family by family: its formula, its options, where it is the operator's own."""
    families: dict[str, list[str]] = defaultdict(list)
    for family, name in sorted(RULES):
        if family != USERS:
            families[family].append(name)
    parts = []
    for family, names in families.items():
        kinds = ", ".join(f"`{kind}`" for kind in sorted(_kinds(family)))
        rows = [(f"`{name}`", _sentence(RULES[family, name]), _options(RULES[family, name])) for name in names]
        parts += [f"## {family}", f"Of kinds {kinds}.", table(("rule", "what it does", "options"), rows)]
    return _page(parts)


def kinds() -> str:
    """Every kind of operator: its family, its own rule, all that fit, and the ATen ops."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for target, operators in OPERATORS.items():
        for operator in operators:
            if operator.family != USERS:
                found[operator.kind, operator.family].append((str(target), operator.rule))
    rows = []
    for (kind, family), ops in sorted(found.items()):
        own = ", ".join(f"`{name}`" for name in sorted({rule for _, rule in ops}))
        fitting = ", ".join(f"`{name}`" for name in rules_of(family))
        rows.append((f"[`{kind}`](#{kind.replace(' ', '-')})", family, own, fitting))
    parts = [table(("kind", "family", "its own rule", "rules that fit"), rows)]
    for (kind, _), ops in sorted(found.items()):
        parts += [f"## {kind}", ", ".join(f"`{target}`" for target in sorted({target for target, _ in ops})) + "."]
    return _page(parts)


def composites() -> str:
    """Every composite as its table of entries, with its parameters."""
    parts = []
    for name, make in COMPOSITES.items():
        parts += [f"## {name}", inspect.cleandoc(make.__doc__ or "").partition("\n\nArgs:")[0]]
        parameters = inspect.signature(make).parameters.values()
        call = f"lrp.composites.{make.__name__}({', '.join(_parameter(p) for p in parameters)})"
        parts.append(f"`{call}`")
        bounds = {p.name: -1.0 if p.name == "low" else 1.0 for p in parameters if p.default is p.empty}
        composite = make(**bounds)
        if composite.by_structure:
            choices = [(choice.why.format(chain="n"), f"`{choice.composite.name}`") for choice in CHOICES]
            parts.append(table(("the first of these that the model fits", "composite"), choices))
        if composite.entries:
            parts.append(table(("applies to", "rule", "options"), _entries(composite)))
    return _page(parts)


def command_line() -> str:
    """Every command as its own parser describes it."""
    root = make_parser()
    commands = next(action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    parts = []
    for name, command in commands.choices.items():
        parts += [f"## {name}", _plain(command.description or "")]
        formatter = argparse.HelpFormatter(command.prog, width=80)
        formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, "")
        parts.append(f"```text\n{formatter.format_help().strip()}\n```")
        for action in command._actions:
            meaning = command._get_formatter()._expand_help(action) if action.help else ""
            parts.append(f"`{_called(action)}`\n:   {_plain(meaning)}")
        parts.append("Example:")
        parts.append("```text\n" + _unindented((command.epilog or "").removeprefix("example:\n")) + "\n```")
    return _page(parts)


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands: patterns have asterisks, and names in angle brackets are no tags."""
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(text, quote=False))


MADE = {"rules": rules, "kinds": kinds, "composites": composites, "command-line": command_line}
"""By the names of the pages in `docs/pages/reference` that ask for them."""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _kinds(family: str) -> set[str]:
    return {entry.kind for entries in OPERATORS.values() for entry in entries if entry.family == family}


def _sentence(function: Any) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _options(function: Any) -> str:
    found = [p for p in inspect.signature(function).parameters.values() if p.default is not p.empty]
    return ", ".join(f"`{p.name}={p.default!r}`" for p in found if p.name not in HIDDEN)


def _parameter(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def _entries(composite: Composite) -> Iterable[tuple[str, str, str]]:
    for entry in composite.entries:
        conditions = entry.conditions()
        kinds = ", ".join(f"`{kind}`" for kind in conditions.pop("kind").split(" | "))
        rest = "".join(f", {name} `{value}`" for name, value in conditions.items())
        options = ", ".join(f"`{name}={value}`" for name, value in entry.options.items())
        yield kinds + rest, f"`{entry.to_dict()['rule']}`", options


def _called(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def _unindented(text: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in text.strip("\n").splitlines()).strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print what a reference page takes from the code.")
    parser.add_argument("page", choices=MADE)
    sys.stdout.write(MADE[parser.parse_args().page]())
