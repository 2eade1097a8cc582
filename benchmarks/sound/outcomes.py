"""How one model's examination ended, as a row; and rows as a table by kind."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.sound.workers import Row, TooLong, at_most

FINDINGS = ("wrong number", "not finite", "raw error", "late refusal", "hang", "crash")
"""What must not be."""

TOLD, SHOWN = 160, 300
"""Characters of a refusal by which equal ones are counted together, and of one that is shown."""


def outcome(examine: Callable[[], list[Any]], seconds: float) -> Row:
    """Run `contract.hold` and say how it ended."""
    from benchmarks.sound.contract import Broken, NoCase, Refused

    start = time.process_time()
    try:
        with at_most(seconds):
            refusals = examine()
        row: Row = {"kind": "passed"}
        if refusals:
            row["refused"] = [sentence(str(error)) for error in refusals]
    except Refused as refused:
        row = {
            "kind": "refused",
            "detail": str(refused.error)[:600],
            "signature": ["refused", sentence(str(refused.error))],
        }
    except NoCase as error:
        row = {"kind": "no case", "detail": str(error)[:300]}
    except Broken as broken:
        row = {
            "kind": broken.kind,
            "promise": broken.promise,
            "detail": broken.detail,
            "signature": list(broken.signature),
        }
    except TooLong as error:
        row = {"kind": "hang", "detail": str(error), "signature": ["hang", ""]}
    return {**row, "seconds": round(time.process_time() - start, 2)}


def sentence(text: str) -> str:
    """A refusal without names and numbers, so that equal ones are counted together."""
    if "no relevance rule" in text:
        return "no relevance rule: " + ", ".join(sorted(set(re.findall(r"^  ([\w.]+): node", text, re.MULTILINE))))
    text = re.sub(r"\s+", " ", text.strip().split("\n")[0])
    text = re.sub(r"'[^']*'|\"[^\"]*\"|<[^>]*>", "…", text)
    text = re.sub(r"\b[a-z]+_?\d+\b|\d+", "#", text)
    return text if len(text) <= TOLD else text[: TOLD - 1].rstrip() + "…"


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows ended how."""
    found = Counter(row["kind"] for row in rows)
    return {kind: found[kind] for kind in ("passed", "refused", *FINDINGS, "no case") if found[kind]}


def groups(rows: Iterable[Row], kinds: tuple[str, ...]) -> list[tuple[tuple[str, ...], list[Row]]]:
    """Rows of these kinds by their signature, the most frequent first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] in kinds:
            found.setdefault(tuple(map(str, row.get("signature", [row["kind"]]))), []).append(row)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def counts_table(found: Mapping[str, int]) -> str:
    """As Markdown."""
    total = sum(found.values())
    lines = ["| ended | count | share |", "|---|---:|---:|"]
    lines += [f"| {kind} | {count} | {count / total:.1%} |" for kind, count in found.items()]
    return "\n".join(lines)


def refusals_table(rows: Iterable[Row], most: int = 40) -> str:
    """The sentences of refusals by their number, as Markdown."""
    lines = ["| refused, names and numbers left out | count |", "|---|---:|"]
    for signature, members in groups(rows, ("refused",))[:most]:
        lines.append(f"| {escaped(signature[-1])} | {len(members)} |")
    return "\n".join(lines)


def findings_table(rows: Iterable[Row], name: str) -> str:
    """Findings by kind, with one example each, as Markdown."""
    lines = [f"| kind | what | count | {name} | detail |", "|---|---|---:|---|---|"]
    for signature, members in groups(rows, FINDINGS):
        row = members[0]
        what = escaped(" · ".join(signature[1:]))
        lines.append(
            f"| {signature[0]} | {what} | {len(members)} | {row['key']} | {escaped(str(row.get('detail', '')))} |"
        )
    return "\n".join(lines) if len(lines) > 2 else "None."


def without_paths(text: str) -> str:
    """Files by their names alone: what is published says nothing of the machine."""
    return re.sub(r"(/[\w.+-]+){2,}/", "", text)


def published(rows: Any) -> Any:
    """Rows as they are published."""
    return json.loads(without_paths(json.dumps(rows, ensure_ascii=False)))


def escaped(text: str) -> str:
    """Fit for Markdown, a table's cell too; no paths of the machine; "…" for what is left out of a long one."""
    line = without_paths(text).replace("\n", " ").strip()
    line = line if len(line) <= SHOWN else line[: SHOWN - 1].rstrip() + "…"
    return re.sub(r"([|*<`\[\]]|(?<!\w)_)", r"\\\1", line)
