"""What promises.py measures of one network or shape: counts, bytes, seconds."""

from __future__ import annotations

import time
from typing import Any

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


def paper_row(name: str) -> dict[str, Any]:
    import lrp_compiler as lrp
    from benchmarks.networks.architectures import ARCHITECTURES

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
    from lrp_compiler.passes.promises.plan import STRICT, STRICT_OPS
    from lrp_compiler.rules import traits

    def is_strict(node: Any) -> bool:
        given = assignment(node)
        # A bias is an operand of an addition, whose other operand alone is active.
        return given is not None and (given.kind in {*STRICT, "shift"} or node.target in STRICT_OPS)

    promises = internal = steps = 0
    for node in filter(is_strict, forward.graph.nodes):
        for operand in node.all_input_nodes:
            promises, steps = promises + 1, steps + 1
            while traits(operand.target).free and not is_strict(operand):
                operand, steps = operand.all_input_nodes[0], steps + 1
            internal += is_strict(operand)
    total = sum(node.op == "call_function" for node in forward.graph.nodes)
    return {"promises": promises, "internal": internal, "delta": steps, "rho": promises / total, "total": total}


def bytes_row(name: str) -> dict[str, Any]:
    import lrp_compiler as lrp
    from benchmarks.memory import min_cut
    from benchmarks.networks.published import PUBLISHED
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
