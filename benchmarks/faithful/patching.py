"""Do LRP's coefficients foretell what patching an activation does? On SmolLM2-135M, beside gradients.

Activation patching: a prompt is run with the output of one MLP, or of one head, taken from the run of another prompt
that differs in a word, at all positions; the effect is by how much the logit of the right next token, less that of the
wrong one, rises. That takes a forward for each component. Attribution patching (Nanda, 2023) estimates all effects from
one backward: (activation of the other run − activation) · gradient. RelP (Jafari et al., arXiv 2508.21258) puts
relevance's coefficient in the place of the gradient: the unit form g of ours, `observe(…, form="unit")`, of the same
difference of logits. Of a head it is that of what the output projection reads: g of its result, through its weights.

Prompts are pairs of equal length (`patching.json`): subject and verb in number, and facts of one token. Pearson's r
over components, pair by pair, with a 95 % interval of the mean over pairs; by layer, over pairs. Rows are kept in
results/patching.json; the table: results/patching.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful.metrics import difference, interval
from benchmarks.networks import pretrained

FILE = Path(__file__).resolve().with_name("patching.json")
PATH, TABLE = RESULTS / "patching.json", RESULTS / "patching.md"
COMPOSITES = ("attnlrp", "cp-lrp", "reference")
PEERS = ("gradient", "integrated")
POINTS = 5
"""Of integrated gradients."""
AT_ONCE = 30
"""Patched runs in a batch."""
PARTS = ("mlp", "head")
EXAMPLES = """examples:
  python -m benchmarks.faithful.patching               pairs without a row
  python -m benchmarks.faithful.patching --pairs 10    the first ten of each kind
  python -m benchmarks.faithful.patching --table       the table of the rows there are
"""


class Pair(NamedTuple):
    """Two prompts of as many tokens, and the token that is right after each."""

    kind: str
    prompt: str
    right: str
    other: str
    wrong: str


class Contrast(nn.Module):
    """A language model as the difference of two logits of the token that follows, `[batch, 1]`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        """Ids int64 `[batch, sequence]`; those of two tokens, int64 `[batch, 1]`."""
        logits = self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits.gather(1, right) - logits.gather(1, wrong)


class Said(NamedTuple):
    """Of each part an array `[layers, components]`."""

    mlp: np.ndarray
    head: np.ndarray


# ── what is patched ──────────────────────────────────────────────────────────────────────────────────────────────────


class Places:
    """Where MLPs and heads hand their results on, in a Llama of transformers'."""

    def __init__(self, network: Contrast) -> None:
        self.network = network
        self.layers: Sequence[Any] = network.model.model.layers
        self.heads: int = network.model.config.num_attention_heads

    def runs(self, *inputs: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """The difference of logits, and by part and layer what is handed on: of MLPs `[batch, sequence, features]`, of
        heads what the output projection reads, in the same shape."""
        found: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.mlp.register_forward_hook(lambda _, __, out: found["mlp"].append(out)).remove)
                reads = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: found["head"].append(args[0]))
                hooks.callback(reads.remove)
            score = self.network(*inputs)
        return score, found

    def patched(self, inputs: Sequence[Tensor], given: dict[str, list[Tensor]]) -> Said:
        """The difference of logits with each component taken from elsewhere, one at a time."""
        jobs = [("mlp", layer, 0) for layer in range(len(self.layers))]
        jobs += [("head", layer, head) for layer in range(len(self.layers)) for head in range(self.heads)]
        scores: dict[tuple[str, int, int], float] = {}
        for at in range(0, len(jobs), AT_ONCE):
            some = jobs[at : at + AT_ONCE]
            with ExitStack() as hooks:
                for row, (part, number, component) in enumerate(some):
                    hooks.callback(self._put(part, number, component, row, given[part][number]).remove)
                score = self.network(*(one.expand(len(some), -1) for one in inputs))
            scores |= dict(zip(some, score[:, 0].tolist(), strict=True))
        mlp = np.array([[scores["mlp", layer, 0]] for layer in range(len(self.layers))])
        heads = [[scores["head", layer, head] for head in range(self.heads)] for layer in range(len(self.layers))]
        return Said(mlp, np.array(heads))

    def _put(self, part: str, number: int, component: int, row: int, given: Tensor) -> Any:
        layer = self.layers[number]
        if part == "mlp":

            def replace(_: Any, __: Any, out: Tensor) -> Tensor:
                out = out.clone()
                out[row] = given[0]
                return out

            return layer.mlp.register_forward_hook(replace)

        def replace_head(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0].clone()
            width = x.shape[-1] // self.heads
            place = slice(component * width, (component + 1) * width)
            x[row, :, place] = given[0, :, place]
            return (x,)

        return layer.self_attn.o_proj.register_forward_pre_hook(replace_head)

    def estimated(
        self, here: dict[str, list[Tensor]], there: dict[str, list[Tensor]], slopes: dict[str, list[Tensor]]
    ) -> Said:
        """(activation of the other run − activation) · slope, summed over positions and features."""
        products = {
            part: [(b - a) * g for a, b, g in zip(here[part], there[part], slopes[part], strict=True)] for part in PARTS
        }
        mlp = np.array([[float(one.sum())] for one in products["mlp"]])
        heads = [one[0].unflatten(-1, (self.heads, -1)).sum((0, 2)).tolist() for one in products["head"]]
        return Said(mlp, np.array(heads))


# ── slopes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def gradients(
    places: Places, inputs: Sequence[Tensor], towards: Tensor | None = None, points: int = 1
) -> dict[str, list[Tensor]]:
    """Of the difference of logits by what MLPs and heads hand on.

    With `towards`, the ids of the other prompt, their mean over as many points between the embeddings of both prompts,
    each in the middle of its share of the way.
    """
    embed = places.network.model.get_input_embeddings()
    start = embed(inputs[0])
    way = torch.zeros_like(start) if towards is None else embed(towards) - start
    total: list[Tensor] = []
    for point in range(points):
        at = (start + (point + 0.5) / points * way).detach().requires_grad_()
        with torch.enable_grad(), ExitStack() as hooks:
            hooks.callback(embed.register_forward_hook(lambda _, __, ___, at=at: at).remove)
            score, found = places.runs(*inputs)
            slopes = torch.autograd.grad(score.sum(), [*found["mlp"], *found["head"]])
        total = [a + b for a, b in zip(total, slopes, strict=True)] if total else list(slopes)
    mean, count = [one / points for one in total], len(places.layers)
    return {"mlp": mean[:count], "head": mean[count:]}


def coefficients(
    places: Places, explainer: lrp.Explainer, inputs: Sequence[Tensor], **given: Any
) -> dict[str, list[Tensor]]:
    """LRP's; `given` as the explainer is called."""
    found = explainer(*inputs, **given).coefficients
    count = len(places.layers)
    behind = [found[f"model.model.layers.{at}.self_attn.o_proj"] for at in range(count)]
    heads = [g @ layer.self_attn.o_proj.weight for g, layer in zip(behind, places.layers, strict=True)]
    return {"mlp": [found[f"model.model.layers.{at}.mlp"] for at in range(count)], "head": heads}


def compiled(network: Contrast, composite: str, inputs: Sequence[Tensor]) -> lrp.Explainer:
    """For any length."""
    return lrp.compile(
        network,
        tuple(inputs),
        composite=composite,
        target=0,
        observe=("model.model.layers.*.mlp", "model.model.layers.*.self_attn.o_proj"),
        form="unit",
        dynamic_shapes=({1: torch.export.Dim("sequence", min=3, max=64)}, None, None),
    )


# ── rows and table ───────────────────────────────────────────────────────────────────────────────────────────────────


def pairs(tokenizer: Any) -> Iterator[tuple[Pair, list[Tensor], list[Tensor]]]:
    """Each pair with the inputs of both prompts, for the same two tokens."""
    for row in json.loads(FILE.read_text(encoding="utf-8")):
        pair = Pair(**row)
        one, other = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (pair.prompt, pair.other))
        tokens = [tokenizer(text)["input_ids"] for text in (pair.right, pair.wrong)]
        if one.shape != other.shape or any(len(token) != 1 for token in tokens):
            raise ValueError(f"{pair}: prompts of as many tokens and answers of one are wanted")
        right, wrong = (torch.tensor([token]) for token in tokens)
        yield pair, [one, right, wrong], [other, right, wrong]


def write(rows: dict[str, Any]) -> None:
    """A line for each pair."""
    lines = ",\n".join(f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(row)}" for name, row in rows.items())
    reporting.write(PATH, f"{{\n{lines}\n}}\n")


def key(pair: Pair) -> str:
    """By which a row is known."""
    return f"{pair.prompt} → {pair.other}"


def measured(
    places: Places, explainers: dict[str, lrp.Explainer], here: list[Tensor], there: list[Tensor]
) -> dict[str, Any]:
    """Effects of patching the wrong run (`there`) with the right one's activations, and their estimates."""
    with torch.no_grad():
        clean, given = places.runs(*here)
        corrupt, now = places.runs(*there)
        patched = places.patched(there, given)
        effect = Said(*(part - float(corrupt) for part in patched))
        known = {"reference": {"reference": {"input_ids": here[0]}}}
        slopes = {
            name: coefficients(places, explainer, there, **known.get(name, {}))
            for name, explainer in explainers.items()
        }
        slopes |= {"gradient": gradients(places, there), "integrated": gradients(places, there, here[0], POINTS)}
    estimates = {name: places.estimated(now, given, slope) for name, slope in slopes.items()}
    rounded = lambda said: {part: np.round(getattr(said, part), 5).tolist() for part in PARTS}  # noqa: E731
    return {"clean": float(clean), "corrupt": float(corrupt), "effect": rounded(effect)} | {
        name: rounded(said) for name, said in estimates.items()
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r of two arrays, flat."""
    return float(np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1])


def table(rows: dict[str, Any]) -> str:
    """By part and kind; then by layer."""
    names = (*PEERS, *COMPOSITES)
    less = (("attnlrp", "gradient"), ("reference", "gradient"), ("reference", "integrated"))
    every = list(rows.values())
    lines = [
        "# What patching an activation does, foretold",
        "",
        "Made by `python -m benchmarks.faithful.patching`, whose docstring says what is measured. "
        f"SmolLM2-135M-Instruct, {len(rows)} pairs of prompts. Pearson's r over components, mean over pairs, […]: "
        "its 95 % interval. The first MLP's effect is many times that of any other, since it turns one subject into "
        "the other: *but the first* leaves it out.",
        "",
        "| component | prompts | " + " | ".join(names) + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    differences = [
        "",
        "One method's r less another's, pair by pair.",
        "",
        "| component | prompts | " + " | ".join(f"{a} − {b}" for a, b in less) + " |",
        "|---|---|" + "---:|" * len(less),
    ]
    for title, part, first in (("mlp", "mlp", 0), ("mlp, but the first", "mlp", 1), ("head", "head", 0)):
        for kind in (*dict.fromkeys(row["kind"] for row in every), "all"):
            some = [row for row in every if kind in (row["kind"], "all")]
            of = lambda row, name, part=part, first=first: np.array(row[name][part])[first:]  # noqa: E731
            r = {name: np.array([correlation(of(row, name), of(row, "effect")) for row in some]) for name in names}
            head = f"| {title} | {kind} ({len(some)}) | "
            cells = [
                f"{r[name].mean():.3f} [{low:.3f}, {high:.3f}]" for name in names for low, high in [interval(r[name])]
            ]
            lines.append(head + " | ".join(cells) + " |")
            cells = [
                f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                for a, b in less
                for mean, (low, high) in [difference(r[a], r[b])]
            ]
            differences.append(head + " | ".join(cells) + " |")
    lines += differences
    for part, what in (
        ("mlp", "the MLP of a layer, r over all pairs"),
        ("head", "the heads of a layer, over all pairs"),
    ):
        lines += [
            "",
            f"By layer: {what}.",
            "",
            "| layer | " + " | ".join(names) + " |",
            "|---:|" + "---:|" * len(names),
        ]
        for layer in range(len(every[0]["effect"][part])):
            taken = {name: np.array([row[name][part][layer] for row in every]) for name in (*names, "effect")}
            cells = [f"{correlation(taken[name], taken['effect']):.2f}" for name in names]
            lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure pairs without a row, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="the first N of each kind")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    rows: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    if not options.table:
        tokenizer, model = pretrained.smollm2()
        model.config._attn_implementation = "eager"
        network = Contrast(model).eval().requires_grad_(False)
        places = Places(network)
        kinds: dict[str, int] = {}
        todo = []
        for pair, here, there in pairs(tokenizer):
            kinds[pair.kind] = kinds.get(pair.kind, 0) + 1
            if key(pair) not in rows and (options.pairs is None or kinds[pair.kind] <= options.pairs):
                todo.append((pair, here, there))
        with reporting.progress(reporting.console()) as bar:
            task = bar.add_task("compile", total=len(todo))
            explainers = {name: compiled(network, name, todo[0][1]) for name in COMPOSITES} if todo else {}
            for pair, here, there in todo:
                bar.update(task, description=pair.prompt[:40])
                start = time.perf_counter()
                row = {"kind": pair.kind} | measured(places, explainers, here, there)
                rows[key(pair)] = row | {"seconds": round(time.perf_counter() - start, 2)}
                write(rows)
                bar.advance(task)
    reporting.write(TABLE, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
