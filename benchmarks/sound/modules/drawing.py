"""Drawing a case: a module that runs, and something to ask of it."""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from lrp_compiler.torch_private import pytree

from .case import CLASSES, LOGITS, Case, Impossible, Scope, Step, Written, write
from .writing import OPS, Value

FEATURES = (
    *("(rows, 4)", "(rows, 6)", "(rows, 3, 4)", "(rows, 5, 4)", "(rows, 4, 6)", "(rows, 2, 5, 6)", "(rows, 3, 7, 7)"),
    *("(rows, 4, 6, 5)", "(rows, 3, 9)", "(rows, 2, 4, 3, 4)", "(rows, 1, 8, 8)", "(rows, 2, 3)"),
)
OTHERS = (
    *("torch.randint(0, 9, (rows, 4))", "torch.randint(0, 9, (rows, 3))", "torch.randint(0, 3, (rows, 3, 4))"),
    *("torch.rand(rows, 4) > 0.3", "torch.randint(0, 256, (rows, 3, 6, 6), dtype=torch.uint8)"),
    *(
        "torch.randn((), dtype=torch.float32)",
        "torch.randn(rows, 0, dtype=torch.float32)",
        "torch.randint(1, 5, (rows, 1))",
    ),
)
NAMES = (("x", "features", "other"),) * 8 + (
    *(("output", "x", "weight"), ("m1_weight", "p1", "x"), ("relu", "add", "linear"), ("input", "self_attn", "mask")),
    *(("args", "kwargs", "x"), ("logits_", "relevance", "seed"), ("head_weight", "b_m1_running_mean", "x")),
)
NAMED = ("epsilon", "epsilon-plus", "attnlrp", "cp-lrp", "attnlrp-gamma", "epsilon-alpha2-beta1", "dynamic-lrp")
RULES = {
    "linear": ("epsilon", "z-plus", "alpha-beta", "gamma", "gamma-one-sided", "w-square", "flat", "zero"),
    "convolution": ("epsilon", "z-plus", "alpha-beta", "gamma", "w-square", "flat"),
    "addition": ("epsilon", "magnitude", "z-plus"),
    "shift": ("epsilon", "magnitude"),
    "sum": ("epsilon", "magnitude"),
    "average": ("epsilon", "z-plus"),
    "normalization": ("epsilon", "pass"),
    "matmul": ("uniform", "full"),
    "product": ("uniform", "magnitude"),
    "gate": ("uniform", "signal"),
    "softmax": ("taylor", "zero"),
}
TRIES = 60


def draw(seed: int, most: int = 9) -> Written:
    """A case drawn with this seed, written."""
    random = Random(seed)
    while True:
        try:
            return _draw(random, most)
        except (Impossible, RuntimeError):  # the latter where a value was changed in place
            continue


def _draw(random: Random, most: int) -> Written:
    names, count = random.choice(NAMES), random.choice((1, 1, 1, 2, 2, 3))
    inputs = {names[0]: f"torch.randn({random.choice(FEATURES)}, dtype=torch.float32)"}
    for name in names[1:count]:
        source = (
            random.choice(OTHERS)
            if random.random() < 0.6
            else f"torch.randn({random.choice(FEATURES)}, dtype=torch.float32)"
        )
        inputs[name] = source if random.random() < 0.7 else inputs[names[0]]
    if random.random() < 0.15:
        inputs = {names[0]: random.choice(OTHERS[:5])}
    scope, steps = Scope(inputs), list[Step]()
    wanted = random.randint(1, most)
    for _ in range(TRIES):
        if len(steps) == wanted:
            break
        step = _step(random, scope.values)
        if step is None:
            continue
        try:
            scope.add(step)
        except Impossible:
            continue
        steps.append(step)
    fit = [index for index, value in enumerate(scope.values) if value.tensor.is_floating_point() and value.dim >= 2]
    if not fit:
        raise Impossible("no activation")
    last = fit[-1] if random.random() < 0.8 else random.choice(fit)
    case = Case(random.randrange(10**6), inputs, tuple(steps), last, random.randrange(len(scope.values)))
    case = _results(random, case, scope.values)
    asked, told = _asked(random, case, [name for name, _ in scope.module.named_children()])
    written = write(Case(**{**vars(case), "asked": asked, "told": told}))
    if random.random() < 0.9 and not _alive(written):
        raise Impossible("nothing depends on the inputs")
    return written


def _alive(written: Written) -> bool:
    """Whether the logits depend on an input, or on a layer behind one."""
    model, make, _ = written.build()
    inputs = [x.requires_grad_() * 1 if x.is_floating_point() else x for x in make(2)]
    results = pytree.tree_leaves(model(*inputs))
    results = [leaf.sum() for leaf in results if isinstance(leaf, Tensor) and leaf.requires_grad]
    sources = [x for x in inputs if x.requires_grad]
    sources += [p for name, p in model.named_parameters() if not name.startswith("head")]
    if not results or not sources:
        return False
    slopes = torch.autograd.grad(sum(results), sources, allow_unused=True)
    return any(slope is not None and bool(slope.any()) for slope in slopes)


def _step(random: Random, values: list[Value]) -> Step | None:
    name = random.choices(list(OPS), [op.often for op in OPS.values()])[0]
    chosen: list[int] = []
    for fits in OPS[name].takes:
        before = [values[index] for index in chosen]
        fit = [index for index, value in enumerate(values) if fits(value, *before)]
        if not fit:
            return None
        # Mostly from what is new, so that modules are deep.
        chosen.append(fit[-1] if random.random() < 0.6 else random.choice(fit))
    return Step(name, tuple(chosen), tuple(random.randrange(1 << 12) for _ in range(16)))


def _results(random: Random, case: Case, values: list[Value]) -> Case:
    last = values[case.last]
    heads = (
        ["linear"] * 12 + ["sequence"] * 3 * (last.dim in (3, 4)) + ["probabilities"] + ["none"] * 2 * (last.dim == 2)
    )
    results = ["alone"] * 8 + ["tuple", "tuple", "dict", "dict", "nested", "with none", "with a size", "twice"]
    dtype = "float64" if random.random() < 0.12 else "float32"
    return Case(**{**vars(case), "head": random.choice(heads), "result": random.choice(results), "dtype": dtype})


def _asked(random: Random, case: Case, modules: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Arguments of `compile`, and of the explainer's call."""
    asked, told = {"composite": _composite(random)}, {}
    classes = "torch.arange(rows) % 2"
    kind = random.choice(("argmax", "argmax", "number", "index", "pair", "several", "target", "function"))
    if case.head == "sequence":
        position = random.choice(('"last"', "0", '"sum"', "slice(0, 2)", '"index"', "-1"))
        wanted = random.choice(("0", "1", "'argmax'", "'index'", "[0, 2]"))
        asked["target"] = f"lrp.Target({wanted}, position={position})"
        told |= {"position": "torch.zeros(rows, dtype=torch.int64)"} if position == '"index"' else {}
        told |= {"target": classes} if wanted == "'index'" else {}
    elif kind == "index":
        asked["target"], told["target"] = '"index"', classes
    elif kind != "argmax":
        # Without a head there are as many classes as there happen to be, two at least.
        some = case.head == "none"
        kinds = {"number": "0" if some else str(random.randrange(CLASSES)), "pair": "(0, 1)"}
        kinds |= {
            "several": "[0, (1, 0)]" if some else "[0, (1, 0), 2]",
            "function": f"lambda outputs: {LOGITS[case.result]}[:, 0] ** 2",
        }
        kinds |= {"target": "lrp.Target(1, output='logits')" if "logits" in LOGITS[case.result] else "lrp.Target(1)"}
        asked["target"] = kinds[kind]
    elif random.random() < 0.3:
        asked["seed"] = random.choice(('"one"', '"tensor"'))
        if case.head == "none":  # nobody knows the shape of what it returns
            asked["seed"] = '"one"'
        if "tensor" in asked["seed"]:
            told["seed"] = f"torch.ones(rows, {CLASSES}, dtype=torch.{case.dtype})"
    if random.random() < 0.4:
        batch = ", ".join("{0: batch}" if "rows" in source else "None" for source in case.inputs.values())
        asked["dynamic_shapes"] = f"({batch},)"
    if random.random() < 0.25:
        asked["memory_budget"] = random.choice(("0.0", "0.25", "0.5", "0.9"))
    if random.random() < 0.15:
        asked["observe"] = random.choice(('"m*"', '"**"', '"head"'))
    if random.random() < 0.15:
        values = [repr(name) for name in (*case.inputs, "head.weight", *modules)]
        asked["wrt"] = f"[{', '.join(random.sample(values, random.choice((1, 1, 2))))}]"
    return asked, told


def _composite(random: Random) -> str:
    chosen = random.random()
    if chosen < 0.75:
        return f'"{random.choice(NAMED)}"'
    if chosen < 0.8:
        return "lrp.composites.epsilon_gamma_box(low=-3.0, high=3.0)"
    entries = [f'lrp.Entry("{kind}", "{random.choice(names)}", optional=True)' for kind, names in RULES.items()]
    return f'lrp.Composite("drawn", ({", ".join(entries)}), primitives={random.random() < 0.5})'
