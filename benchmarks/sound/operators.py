"""Every operator of torch's own list, a module each: explained, or refused with a sentence.

The list is `torch.testing._internal.common_methods_invocations.op_db`, with which torch tests itself; inputs are too.
A module calls one operator on them and makes three logits of its first result by a linear layer. The first
floating-point tensor is the module's input and the rest constants; then all tensors are inputs, of two samples. What is
promised of it is in `contract.py`.

An operator is *meaningful* if it takes a floating-point tensor and returns one that depends on it, the same each time.

Rows are kept in build/operators, the table in results/operators.md. Exit status 1: a number was wrong, or an error raw.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD
from benchmarks.sound import RESULTS
from benchmarks.sound.outcomes import FINDINGS, escaped, groups, outcome, published
from benchmarks.sound.workers import Row, append_row, read_rows, run, serve

EXAMPLES = """examples:
  python -m benchmarks.sound.operators                     all
  python -m benchmarks.sound.operators --resume            those without a row
  python -m benchmarks.sound.operators --only nn.functional.glu cumsum
  python -m benchmarks.sound.operators --again             those with findings
"""
FOLDER = BUILD / "operators"
SECONDS = 60.0
SAMPLES = 2
"""Of torch's inputs for an operator: the first, and one from the middle; if they are empty or the like, others."""
TRIED = 8
SHARE = {"plain": 0.35, "budget": 0.0, "split": 0.0, "observe": 0.0, "saved": 0.35, "onnx": 0.5}
"""How often each of the dear promises is asked; the name draws."""
MEANT = ("explained", "partly", "refused", *FINDINGS)
NEAR = 0.02
"""By what share of itself an element of further inputs is smaller, at most: it stays in most functions' domain."""
COMPOSITES = ("epsilon", "attnlrp")


def names() -> list[str]:
    """Of all operators, variants of a test included."""
    from torch.testing._internal.common_methods_invocations import op_db

    return [op.name + (f".{op.variant_test_name}" if op.variant_test_name else "") for op in op_db]


def modules(op: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Modules of the operator, each with its inputs; raises `ValueError` with the reason if there are none."""
    import torch

    if not op.supports_dtype(torch.float32, "cpu"):
        raise ValueError("takes no float32")
    torch.manual_seed(0)
    samples = [sample for sample in op.sample_inputs("cpu", torch.float32, requires_grad=False) if _small(sample)]
    if not samples:
        raise ValueError("takes no floating-point tensor")
    order = [samples[0], samples[len(samples) // 2], *samples[1 :: len(samples) // TRIED + 1]]
    reasons, taken = [], 0
    for sample in order:
        found = False
        for every in (False, True)[taken:]:
            try:
                module, inputs = _module(op, sample, every)
            except ValueError as error:
                reasons.append(str(error))
                continue
            if not every or len(inputs) > 1:
                found = True
                yield module, inputs
        taken += found
        if taken == SAMPLES:
            return
    if not taken:
        raise ValueError(reasons[0] if reasons else "no sample")


def _small(sample: Any) -> bool:
    from torch import Tensor

    from lrp_compiler.torch_private import pytree

    leaves = [x for x in pytree.tree_leaves((sample.input, sample.args, sample.kwargs)) if isinstance(x, Tensor)]
    floats = [x for x in leaves if x.is_floating_point() and x.numel()]
    return bool(floats) and all(x.numel() <= 3000 for x in leaves) and all(x.isfinite().all() for x in floats)


def _module(op: Any, sample: Any, every: bool) -> tuple[Any, tuple[Any, ...]]:
    import torch
    from torch import Tensor, nn

    from lrp_compiler.torch_private import pytree

    leaves, structure = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    active = tensors if every else [i for i in tensors if leaves[i].is_floating_point() and leaves[i].numel()][:1]

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for index in tensors:
                if index not in active:
                    self.register_buffer(f"constant{index}", leaves[index].detach().clone())
            self.size = 0

        def call(self, *inputs: Tensor) -> Tensor:
            given = list(leaves)
            for index in tensors:
                given[index] = inputs[active.index(index)] if index in active else getattr(self, f"constant{index}")
            first, args, kwargs = pytree.tree_unflatten(given, structure)
            result = [r for r in pytree.tree_leaves(op.op(first, *args, **kwargs)) if isinstance(r, Tensor)]
            result = [r for r in result if r.is_floating_point() or r.is_complex()][:1]
            if not result:
                raise ValueError("returns no floating-point tensor")
            return torch.view_as_real(result[0]).flatten() if result[0].is_complex() else result[0].flatten()

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.head(self.call(*inputs)[None].to(self.head.weight.dtype))

    module = Calls().eval()
    inputs = tuple(leaves[index].detach().clone() for index in active)
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            one = module.call(*(x.clone() for x in inputs))
            two = module.call(*(x.clone() for x in inputs))
            moved = module.call(*(x + 0.37 * x.abs() if x.is_floating_point() else x for x in inputs))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"does not run on its own samples: {type(error).__name__}") from error
    if one.shape != two.shape or not torch.equal(one.nan_to_num(), two.nan_to_num()):
        raise ValueError("random, or returns memory that nobody wrote")
    if not one.numel():
        raise ValueError("returns an empty tensor")
    if one.shape == moved.shape and torch.equal(one.nan_to_num(), moved.nan_to_num()):
        raise ValueError("its result does not depend on the values")
    torch.manual_seed(1)
    module.head = nn.Linear(one.numel(), 3).eval()
    return module, inputs


def job(name: str, operators: dict[str, Any]) -> Row:
    """Examine all modules of one operator; the worst ending is the row's."""
    ended: list[Row] = []
    made = modules(operators[name])
    number = 0
    while True:
        try:
            module, inputs = next(made)
        except StopIteration:
            break
        except ValueError as error:
            return {"kind": "not meaningful", "detail": str(error)}
        except Exception as error:  # torch's own samples fail
            return {"kind": "not meaningful", "detail": f"no samples: {type(error).__name__}"}
        ended.append(_examined(name, module, inputs, number))
        number += 1
    kinds = Counter(row["kind"] for row in ended)
    worst = next((row for kind in FINDINGS for row in ended if row["kind"] == kind), None)
    if worst is not None:
        return {**worst, "endings": kinds}
    refused = [row for row in ended if row["kind"] == "refused"]
    if not kinds["passed"] and not refused:
        return {"kind": "not meaningful", "detail": ended[0].get("detail", ""), "endings": kinds}
    kind = "explained" if not refused else "partly" if kinds["passed"] else "refused"
    row: Row = {"kind": kind, "endings": kinds, "exporters": [text for r in ended for text in r.get("refused", ())]}
    return {**row, **{key: refused[0][key] for key in ("detail", "signature")}} if refused else row


def _examined(name: str, module: Any, inputs: tuple[Any, ...], number: int) -> Row:
    import torch

    from benchmarks.sound.contract import PROMISES, Asked, hold

    drawn = 0

    def make(rows: int) -> tuple[Any, ...]:
        """The example as torch drew it, then near by: another draw might lie where the operator is not defined."""
        nonlocal drawn
        drawn += 1
        near = 0.0 if drawn == 1 else NEAR
        return tuple(x * (1 - near * torch.rand_like(x)) if x.is_floating_point() else x.clone() for x in inputs)

    random = Random(f"{name} {number}")
    promises = [p for p in PROMISES if p in ("output", "books", "graph") or random.random() < SHARE[p]]
    options = {"composite": COMPOSITES[number % 2], "target": 0}
    return outcome(lambda: hold(Asked(module, make, options, promises=tuple(promises))), SECONDS)


def work(keys: list[str]) -> None:
    """In the worker."""
    import warnings

    import torch
    from torch.testing._internal.common_methods_invocations import op_db

    from benchmarks.sound.contract import warm_up

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    operators = dict(zip(names(), op_db, strict=True))
    warm_up()
    serve(keys, lambda name: job(name, operators), cpu=int(6 * SECONDS))


def markdown(rows: dict[str, Row]) -> str:
    """The table."""
    values = list(rows.values())
    kinds = Counter(row["kind"] for row in values)
    meant = sum(kinds[kind] for kind in MEANT)
    good = sum(kinds[kind] for kind in ("explained", "partly", "refused"))
    reasons = Counter(row["detail"] for row in values if row["kind"] == "not meaningful")
    lines = ["| ended | operators | share of the meaningful |", "|---|---:|---:|"]
    lines += [f"| {kind} | {kinds[kind]} | {kinds[kind] / max(meant, 1):.1%} |" for kind in MEANT if kinds[kind]]
    lines += [f"| not meaningful: {escaped(reason)} | {count} | |" for reason, count in reasons.most_common(12)]
    parts = [
        "# Operators",
        "Written by `python -m benchmarks.sound.operators`; its docstring says what a module is made of. *Partly*: of "
        "an operator's modules some are explained and some refused.",
        f"{len(values)} operators, {meant} meaningful, {good} ({good / max(meant, 1):.1%}) explained or refused.",
        "\n".join(lines),
        "## Findings",
        _listed(values, FINDINGS) or "None.",
        "## Refused",
        _listed(values, ("refused", "partly")) or "None.",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(rows: list[Row], kinds: tuple[str, ...]) -> str:
    lines = []
    for signature, members in groups(rows, kinds):
        what = escaped(" · ".join(signature[1:] if signature[0] == "refused" else signature))
        lines.append(f"- {what} ({len(members)}): {', '.join(row['key'] for row in members)}")
        if members[0]["kind"] in FINDINGS:
            lines.append(f"  {escaped(members[0].get('detail', ''))}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these operators")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--resume", action="store_true", help="keep the rows of earlier runs")
    parser.add_argument("--again", action="store_true", help="run what failed once more, nothing else")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    path = FOLDER / "rows.jsonl"

    rows = read_rows(path)
    if not (options.resume or options.again or options.only):
        path.unlink(missing_ok=True)
        rows = {}
    wanted = options.only or [name for name in names() if name not in rows]
    if options.again:
        wanted = [key for key, row in rows.items() if row["kind"] in FINDINGS]
    console = reporting.console()

    def found(row: Row) -> None:
        append_row(path, row)
        rows[row["key"]] = row
        if row["kind"] in FINDINGS or options.only:
            console.print(f"{row['key']}: {row['kind']}: {row.get('signature')}: {row.get('detail')}", markup=False)

    run(
        lambda keys: processes.command("benchmarks.sound.operators", "--work", *keys, quiet=True),
        wanted,
        found,
        jobs=options.jobs,
        chunk=100,
        log=FOLDER / "log.txt",
    )
    rows = {name: rows[name] for name in names() if name in rows}
    others = {name: row for name, row in rows.items() if row["kind"] != "explained"}
    explained = [name for name in rows if name not in others]
    reporting.write_rows(RESULTS / "operators.json", published({"explained": explained, "others": others}))
    reporting.write(RESULTS / "operators.md", markdown(rows))
    console.print(Counter(row["kind"] for row in rows.values()))
    if any(row["kind"] in FINDINGS for row in rows.values()):
        sys.exit("See benchmarks/sound/results/operators.md.")


if __name__ == "__main__":
    main()
