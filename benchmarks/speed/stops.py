"""What stops a target that was not met: the floor that was measured, and what was tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.speed.cases import CASES, OURS, PEERS, REFERENCE, TRIED, Case
from benchmarks.speed.cells import MAIN, how_much_slower, number, rows_of, title

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
"""onnxruntime's operators that the floor counts."""
LAYOUT = ("ReorderInput", "ReorderOutput")
"""Those that it puts around its convolutions by itself: these work on blocks of channels."""


def slower(case: Case, row: dict[str, Any]) -> list[str]:
    """Peers that we are not as far ahead of as the case wants."""
    times = {peer: how_much_slower(row, peer) for peer in case.faster}
    return [peer for peer, least in case.faster.items() if times[peer] is None or times[peer] < least]


def smaller(row: dict[str, Any]) -> list[str]:
    """Who explains with less memory than our `small` profile."""
    explaining = [peer for peer in PEERS if peer != "torch-forward" and "peak" in row.get(peer, {})]
    return [peer for peer in explaining if row[peer]["peak"] < row.get("small", {}).get("peak", 0.0)]


def stops(found: dict[str, Any], profiles: Mapping[str, Any]) -> Iterable[str]:
    """For each target that was not met: the measured floor that stops it; then what was tried, and for which.

    And where somebody explains with less memory than the `small` profile does.
    """
    tried: dict[str, list[str]] = {}
    for name, case in CASES.items():
        row = rows_of(found, name, MAIN)
        if "ratio" not in row.get(OURS, {}):
            continue
        ratio, behind = row[OURS]["ratio"], slower(case, row)
        said = []
        if case.target is not None and ratio > case.target:
            said.append(f"{ratio:.2f} forwards instead of {case.target:g}.")
        if said and name in profiles:
            took = shares(profiles[name])
            said.append(
                f"Products alone take {took.products:.2f} × the forward's, the runtime's changes of layout around them "
                f"{took.layout:.2f} forwards, the rules' own arithmetic {took.rules:.2f}, all else {took.rest:.2f}."
            )
            if (least := round(took.products + took.layout, 2)) > case.target:
                said.append(f"The floor is {least:.2f}: products and layout, as the runtime does them.")
            elif (least := round(took.products + took.layout + took.rules, 2)) > case.target:
                said.append(
                    f"The floor is {least:.2f}: products, layout and the rules' arithmetic, as the runtime does them; "
                    "it has no single operator for R · a / (a + ε)."
                )
        for peer in behind:
            if "ratio" in row.get(peer, {}):
                theirs, least = row[peer]["ratio"], case.faster[peer]
                said.append(
                    f"{title(peer)} takes {theirs:.2f} forwards: to be {least:g} times as fast is to explain in "
                    f"{theirs / least:.2f}, and products alone need {number(found['files'][name].get('floor'))}."
                )
        if leaner := smaller(row):
            peaks = ", ".join(f"{title(peer)} {row[peer]['peak']:,.0f}" for peer in leaner)
            said.append(f"The `small` profile's peak is {row['small']['peak']:,.0f} MB; smaller: {peaks}.")
        if said:
            yield " ".join((f"{case.title}:", *said))
            for key in case.tried:
                tried.setdefault(key, []).append(case.title)
    for key, titles in tried.items():
        yield f"{TRIED[key]} ({', '.join(titles)})"


class Shares(NamedTuple):
    """Of the time of an explanation."""

    products: float
    """As a multiple of the forward's."""
    layout: float
    """The runtime's changes of layout, in forwards."""
    rules: float
    """What the rules add, multiply and divide, element by element, in forwards; not what a pool routes."""
    rest: float
    """In forwards."""


def shares(profile: Mapping[str, Any]) -> Shares:
    """Of a row of profile.py."""
    total = {who: sum(ms for ms, _ in profile[who]["ops"].values()) for who in (REFERENCE, OURS)}
    products, layout = (
        {who: sum(profile[who]["ops"].get(kind, [0])[0] for kind in kinds) for who in (REFERENCE, OURS)}
        for kinds in (PRODUCTS, LAYOUT)
    )
    rules = sum(ms for rule, ms in profile[OURS].get("rules", {}).items() if rule != "route")
    rest = total[OURS] - products[OURS] - layout[OURS] - rules
    in_forwards = (ms / total[REFERENCE] for ms in (layout[OURS], rules, rest))
    return Shares(products[OURS] / products[REFERENCE], *in_forwards)
