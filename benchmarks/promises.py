"""What the promise planner comes to: next to the paper, next to autograd and functorch, and in seconds.

    paper      the paper's Table 4 next to ours. Published: promises, internal nodes, δ, ρ, total nodes. ρ is promises
               by total nodes; of the others we know only the figures. Ours, under the paper's strict policy on our
               graph (biases are additions, as in the paper): a promise for every operand of an addition, sum, mean,
               concatenation, stack, piece of an unbind, or softmax; internal: those whose operand comes from such a
               node itself, through views at most; δ: forward nodes walked from each promised operand through views to
               the node that made it, that one included; total: call nodes of the forward graph. Elided: what is left
               of them in the unit form (composite attnlrp). Counts don't depend on the width: an eighth is built.
    bytes      kept bytes of the default policy at the published width, batch 1, and what autograd saves for the same
               forward (saved_tensors_hooks, each storage once, parameters, buffers and inputs left out): for training,
               and for the gradient of the input alone (parameters frozen). Then what this planner and functorch's
               min-cut keep at the same budgets: saved, and held at once when the rebuilt values are counted.
    time       seconds for planning chains, trees and transformer-like graphs of 1k … 16k values at a budget of 0.25,
               best of 5, with the line that fits them.

Rows are kept in results/promises.json, the tables in results/promises.md. Each network has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import reporting

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("paper", "bytes", "time")
PAPER: dict[str, tuple[int, int, int, float, int]] = {
    "roberta_large": (243, 48, 438, 0.166, 1465),
    "flan_t5_large": (798, 348, 980, 0.140, 5713),
    "vit_b_16": (224, 27, 227, 0.288, 779),
    "vgg16": (32, 0, 32, 0.356, 90),
}
"""As published: promises, internal nodes, δ, ρ, total nodes."""
BYTES = ("vgg16", "resnet50", "vit_b_16", "bert", "llama")
BUDGETS = (1.0, 0.5, 0.25)
SIZES = (1000, 2000, 4000, 8000, 16000)
SHAPES = ("chain", "tree", "transformer")
EXAMPLES = """examples:
  python benchmarks/promises.py                             whatever has no row yet
  python benchmarks/promises.py --parts paper time          these tables, again
  python benchmarks/promises.py --parts bytes --models vit_b_16 bert
"""

# ── the paper's table ────────────────────────────────────────────────────────────────────────────────────────────────


def paper_row(name: str) -> dict[str, Any]:
    from architectures import ARCHITECTURES

    import lrp_compiler as lrp

    architecture = ARCHITECTURES[name]
    model, example = architecture.build(), architecture.inputs(2)
    target = lrp.Target(0, position=architecture.position)

    def compiled(composite: str) -> Any:
        return lrp.compile(model, kwargs=example, composite=composite, target=target)

    unit = compiled("attnlrp").plan
    asked = unit.of("kept", "rebuilt")
    return {
        "published": PAPER[name],
        "strict": strict_policy(compiled("dynamic-lrp").forward),
        "left": {"kept": len(unit.of("kept")), "rebuilt": len(unit.of("rebuilt")), "asked": len(asked)},
    }


def strict_policy(forward: Any) -> dict[str, float]:
    """What the paper's policy promises on this graph."""
    from lrp_compiler.passes.graph.assignment import assignment
    from lrp_compiler.passes.promises.ledger import FREE
    from lrp_compiler.passes.promises.plan import STRICT, STRICT_OPS

    def is_strict(node: Any) -> bool:
        given = assignment(node)
        # A bias is an operand of an addition, whose other operand alone is active.
        return given is not None and (given.kind in {*STRICT, "shift"} or node.target in STRICT_OPS)

    promises = internal = steps = 0
    for node in filter(is_strict, forward.graph.nodes):
        for operand in node.all_input_nodes:
            promises, steps = promises + 1, steps + 1
            while operand.target in FREE and not is_strict(operand):
                operand, steps = operand.all_input_nodes[0], steps + 1
            internal += is_strict(operand)
    total = sum(node.op == "call_function" for node in forward.graph.nodes)
    return {"promises": promises, "internal": internal, "delta": steps, "rho": promises / total, "total": total}


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bytes_row(name: str) -> dict[str, Any]:
    import min_cut
    from published import PUBLISHED

    import lrp_compiler as lrp
    from lrp_compiler.passes.promises import planner as segments
    from lrp_compiler.passes.promises.ledger import Ledger

    network = PUBLISHED[name]
    model, inputs = network.build(), network.inputs(1)
    row: dict[str, Any] = {
        "composite": network.composite,
        "autograd": {
            "training": saved_by_autograd(model, inputs, True),
            "input": saved_by_autograd(model, inputs, False),
        },
    }
    explainer = lrp.compile(model, kwargs=inputs, composite=network.composite, target=lrp.Target(0))
    ledger = Ledger.of(explainer.forward)
    place = {node.name: index for node, index in ledger.index.items()}
    asked = [place[promise.value] for promise in explainer.plan.of("kept", "rebuilt", "constant")]
    row["largest"] = largest(explainer)
    for planner, plan in {"segments": segments.plan, "min-cut": min_cut.plan}.items():
        row[planner] = {}
        for budget in BUDGETS:
            decision = plan(ledger.values, asked, budget)
            saved = sum(ledger.values[index].nbytes for index in decision.kept)
            total = sum(value.cost for value in ledger.values)
            row[planner][str(budget)] = {"saved": saved, "held": decision.held, "again": decision.cost / total}
    return row


def largest(explainer: Any) -> dict[str, int]:
    """Kept bytes by operation, the largest three."""
    ops = {node.name: str(node.target).removeprefix("aten.") for node in explainer.forward.graph.nodes}
    by_op: dict[str, int] = {}
    for promise in explainer.plan.of("kept"):
        by_op[ops[promise.value]] = by_op.get(ops[promise.value], 0) + promise.nbytes
    return dict(sorted(by_op.items(), key=lambda item: -item[1])[:3])


def saved_by_autograd(model: Any, inputs: dict[str, Any], training: bool) -> int:
    """Bytes that autograd holds after the forward: each storage once, parameters, buffers and inputs left out.

    Args:
        model: in eval mode.
        inputs: by name; what they are looked up in counts as the input where they are integers.
        training: whether gradients of the parameters are wanted, or those of the input alone.
    """
    import torch

    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers(), *inputs.values()]}
    held: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    def as_leaf(module: Any, args: Any, result: Any) -> Any:
        leaf = result.detach().requires_grad_()
        own.add(leaf.untyped_storage().data_ptr())
        return leaf

    model.requires_grad_(training)
    handles = []
    given = {name: x.clone().requires_grad_() if x.is_floating_point() else x for name, x in inputs.items()}
    own |= {x.untyped_storage().data_ptr() for x in given.values()}
    if not training and hasattr(model, "get_input_embeddings"):
        handles = [model.get_input_embeddings().register_forward_hook(as_leaf)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(**given) if len(given) > 1 or "input_ids" in given else model(*given.values())
    for handle in handles:
        handle.remove()
    model.requires_grad_(False)
    total = sum(nbytes for nbytes, _ in held.values())
    del result
    return total


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def time_row(shape: str) -> dict[str, Any]:
    import numpy

    from lrp_compiler.passes.promises.planner import plan

    seconds = []
    for size in SIZES:
        values = graph_of(shape, size)
        asked = range(1, len(values))
        runs = []
        for _ in range(5):
            start = time.process_time()
            plan(values, asked, 0.25)
            runs.append(time.process_time() - start)
        seconds.append(min(runs))
    slope, offset = numpy.polyfit(SIZES, seconds, 1)
    predicted = slope * numpy.array(SIZES) + offset
    spread = ((numpy.array(seconds) - predicted) ** 2).sum() / ((numpy.array(seconds) - numpy.mean(seconds)) ** 2).sum()
    fit = {"microseconds_per_value": slope * 1e6, "milliseconds": offset * 1e3, "r_squared": 1 - spread}
    return {"seconds": dict(zip(map(str, SIZES), seconds, strict=True)), "fit": fit}


def graph_of(shape: str, size: int) -> list[Any]:
    """An input and about `size` values."""
    from lrp_compiler.passes.promises.planner import Value

    values = [Value(0, given=True)]
    while len(values) <= size:
        n = len(values)
        if shape == "chain":
            values.append(Value(100, 10.0, (n - 1,)))
        elif shape == "tree":
            values.append(Value(100, 10.0, (n // 2,)))
        else:  # a residual stream; norm, q, k, v, scores, softmax, product, sum; norm, product, GELU, product, sum
            stream = n - 1
            values += [Value(100, 8.0, (stream,)), *(Value(100, 800.0, (n,)) for _ in range(3))]
            values += [Value(400, 800.0, (n + 1, n + 2)), Value(400, 32.0, (n + 4,))]
            values += [Value(100, 800.0, (n + 5, n + 3)), Value(100, 1.0, (stream, n + 6), cheap=True)]
            values += [Value(100, 8.0, (n + 7,)), Value(400, 3200.0, (n + 8,)), Value(400, 4.0, (n + 9,), cheap=True)]
            values += [Value(100, 3200.0, (n + 10,)), Value(100, 1.0, (n + 7, n + 11), cheap=True)]
    return values


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    intro = "# Promises\n\nWritten by `python benchmarks/promises.py`; its docstring says what the columns mean."
    return (
        "\n\n".join([intro, *(part for part in (paper_table(rows), bytes_table(rows), time_table(rows)) if part)])
        + "\n"
    )


def table(title: str, columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    body = ["| " + " | ".join(line) + " |" for line in lines]
    head = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join([f"## {title}", "", *head, *body]) if body else ""


def paper_table(rows: dict[str, dict[str, Any]]) -> str:
    from architectures import ARCHITECTURES

    lines = []
    for name, row in chosen(rows, "paper", PAPER):
        strict, left = row["strict"], row["left"]
        ours = ("promises", "internal", "delta")
        published = [*map(str, row["published"][:3]), f"{row['published'][3]:.3f}", str(row["published"][4])]
        mine = [*(str(strict[key]) for key in ours), f"{strict['rho']:.3f}", str(strict["total"])]
        pairs = [f"{a} / {b}" for a, b in zip(published, mine, strict=True)]
        lines.append([ARCHITECTURES[name].title, *pairs, str(left["kept"]), str(left["rebuilt"])])
    columns = ("", "promises", "internal nodes", "δ", "ρ", "total nodes", "after elision: kept", "rebuilt (views)")
    return table("The paper's Table 4: published / strict policy on our graph", columns, lines)


def bytes_table(rows: dict[str, dict[str, Any]]) -> str:
    from published import PUBLISHED

    lines, notes = [], []
    for name, row in chosen(rows, "bytes", BYTES):
        cells = [PUBLISHED[name].title, row["composite"], size(row["segments"]["1.0"]["saved"])]
        cells += [size(row["autograd"]["training"]), size(row["autograd"]["input"])]
        for budget in map(str, BUDGETS):
            cells += [
                f"{size(row[planner][budget]['saved'])} ({size(row[planner][budget]['held'])})" for planner in OURS
            ]
        lines.append(cells)
        largest = ", ".join(f"{op} {size(nbytes)}" for op, nbytes in row["largest"].items())
        notes.append(f"- {PUBLISHED[name].title}: {verdict(row)} {WHY.get(name, '')} Most of what is kept: {largest}.")
    columns = ["", "composite", "kept by default", "autograd, training", "autograd, input alone"]
    for budget in BUDGETS:
        columns += [f"ours at {budget:g}", f"min-cut at {budget:g}"]
    text = table("Kept MB: saved by the forward (held at once, with what is rebuilt)", columns, lines)
    return f"{text}\n\n" + "\n".join(notes) if lines else ""


OURS = ("segments", "min-cut")


WHY = {
    "resnet50": "More than autograd: the stabilised residual additions ask for both operands and the result, which a "
    "budget below 1 rebuilds from them.",
    "vit_b_16": "More than autograd for the input alone, which computes the pattern of attention again (its fused "
    "attention saves neither scores nor softmax); a smaller budget does that too.",
    "bert": "More than autograd for the input alone, which computes the pattern of attention again (its fused "
    "attention saves neither scores nor softmax); a smaller budget does that too.",
}
"""Where the default policy keeps more than autograd saves."""


def verdict(row: dict[str, Any]) -> str:
    """Whether the row holds what is asked of it, and why not."""
    found = []
    for what, key in (("training", "training"), ("the input's gradient", "input")):
        share = row["segments"]["1.0"]["saved"] / row["autograd"][key]
        found.append(f"{share:.2f} × what autograd saves for {what}")
    for budget in map(str, BUDGETS):
        ours, theirs = row["segments"][budget], row["min-cut"][budget]
        if ours["saved"] > theirs["saved"]:
            limit = float(budget) * row["segments"]["1.0"]["held"]
            held = f"held at once it is {size(ours['held'])} against {size(theirs['held'])}"
            over = ", over its budget" if theirs["held"] > limit * 1.0001 else ""
            found.append(f"at {budget} min-cut saves less because it takes rebuilding for free: {held}{over}")
    return "; ".join(found) + "."


def time_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for shape, row in chosen(rows, "time", SHAPES):
        fit = row["fit"]
        line = f"{fit['microseconds_per_value']:.1f} µs · n {fit['milliseconds']:+.1f} ms, R² = {fit['r_squared']:.4f}"
        lines.append([shape, *(f"{seconds:.3f}" for seconds in row["seconds"].values()), line])
    return table("Planning, seconds of CPU", ("", *(f"{n // 1000}k" for n in SIZES), "fit"), lines)


def chosen(rows: dict[str, dict[str, Any]], part: str, names: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, rows[part][name]) for name in names if name in rows.get(part, {}) and "failure" not in rows[part][name]
    ]


def size(nbytes: float) -> str:
    return f"{nbytes / 1e6:.1f}"


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────

MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {"paper": paper_row, "bytes": bytes_row, "time": time_row}
NAMES: dict[str, tuple[str, ...]] = {"paper": tuple(PAPER), "bytes": BYTES, "time": SHAPES}


def row_of(part: str, name: str, timeout: float) -> dict[str, Any]:
    """The row, whatever becomes of its process."""
    command = [sys.executable, "-W", "ignore", __file__, "--row", part, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"failure": f"not done after {timeout:g} s"}
    if done.returncode:
        return {
            "failure": (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1][:300]
        }
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="these tables, whether or not they have rows")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="these rows alone")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one row (1800)")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        import torch

        torch.set_num_threads(2)
        print(json.dumps(MEASURES[options.row[0]](options.row[1])))
        return
    known = {name for names in NAMES.values() for name in names}
    unknown = [name for name in options.models or () if name not in known]
    if unknown:
        parser.error(f"no row {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    path = RESULTS / "promises.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    wanted = [(part, name) for part in options.parts or PARTS for name in NAMES[part]]
    wanted = [(part, name) for part, name in wanted if not options.models or name in options.models]
    if not options.parts and not options.models:
        wanted = [(part, name) for part, name in wanted if "failure" in rows.get(part, {}).get(name, {"failure": ""})]
    console = reporting.console()
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for part, name in wanted:
            progress.update(task, description=f"{part}, {name}")
            rows.setdefault(part, {})[name] = row = row_of(part, name, options.timeout)
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
            progress.advance(task)
            progress.console.print(f"{part}, {name}: {row.get('failure', 'done')}", highlight=False)


if __name__ == "__main__":
    main()
