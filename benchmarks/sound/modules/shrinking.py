"""The smallest case that still fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .case import Case, Impossible, Written, write


def shrink(written: Written, fails: Callable[[Written], bool], tries: int = 150) -> Written:
    """Simplify as long as it still fails.

    Args:
        written: a case that fails.
        fails: whether another one fails in the same way.
        tries: how many cases may be run.
    """
    seen: set[str] = set()
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for case in _simpler(written.case):
            if repr(case) in seen or tries <= 0:
                continue
            seen.add(repr(case))
            try:
                candidate = write(case)
            except Impossible:
                continue
            tries -= 1
            if fails(candidate):
                written, smaller = candidate, True
                break
    return written


def _simpler(case: Case) -> Iterator[Case]:
    """Cases that say less: the boldest first."""
    inputs = len(case.inputs)
    for start in range(len(case.steps) - 1, -1, -1):
        # All later values dropped: the logits are computed from this one.
        if start + inputs < case.last or (start + inputs == case.last and start + 1 < len(case.steps)):
            yield replace(case, steps=case.steps[: start + 1], last=start + inputs, also=min(case.also, start + inputs))
    for index, step in reversed(list(enumerate(case.steps))):
        for source in dict.fromkeys([*step.sources, *range(inputs)]):
            yield _without(case, index, source)
    for key in case.asked:
        if key != "composite":
            yield replace(case, asked={k: v for k, v in case.asked.items() if k != key}, told={})
    if case.asked.get("composite") not in ('"epsilon"', None):
        yield replace(case, asked={**case.asked, "composite": '"epsilon"'})
    if case.head != "linear":
        yield replace(case, head="linear")
    if case.result != "alone":
        yield replace(case, result="alone", also=0)
    if case.dtype != "float32":
        yield replace(case, dtype="float32")
    used = {source for step in case.steps for source in step.sources} | {case.last, case.also}
    for index, name in enumerate(case.inputs):
        if index not in used and inputs > 1:
            yield _without_input(case, index, name)
    for index, step in enumerate(case.steps):
        for place, choice in enumerate(step.choices):
            if choice:
                simple = (*step.choices[:place], 0, *step.choices[place + 1 :])
                if not any(simple[place:]):
                    simple = simple[:place]
                yield replace(
                    case, steps=(*case.steps[:index], replace(step, choices=simple), *case.steps[index + 1 :])
                )


def _without(case: Case, index: int, source: int) -> Case:
    """The case without a step: who read it reads `source`."""
    gone = index + len(case.inputs)

    def moved(value: int) -> int:
        value = source if value == gone else value
        return value - (value > gone)

    steps = tuple(replace(s, sources=tuple(map(moved, s.sources))) for s in case.steps)
    return replace(case, steps=steps[:index] + steps[index + 1 :], last=moved(case.last), also=moved(case.also))


def _without_input(case: Case, index: int, name: str) -> Case:
    def moved(value: int) -> int:
        return value - (value > index)

    steps = tuple(replace(s, sources=tuple(map(moved, s.sources))) for s in case.steps)
    inputs = {key: source for key, source in case.inputs.items() if key != name}
    asked = {key: text for key, text in case.asked.items() if key != "dynamic_shapes"}
    if "dynamic_shapes" in case.asked:
        batch = ", ".join("{0: batch}" if "rows" in source else "None" for source in inputs.values())
        asked["dynamic_shapes"] = f"({batch},)"
    return replace(case, inputs=inputs, steps=steps, last=moved(case.last), also=moved(case.also), asked=asked)
