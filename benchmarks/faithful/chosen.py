"""What `auto` chooses for the benchmark's networks, beside what was measured of them; a table of stored rows.

The choice is read off networks with random weights: structure is all that it goes by. Figures are those of
`faithfulness.json`, `candidates.json` and `structures.json`, none is measured here.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful import report, structures, training
from benchmarks.faithful.metrics import difference
from benchmarks.faithful.report import Row, number, table

NAMED = lrp.composites.COMPOSITES
NEAR = 0.01
"""As far behind the best composite `auto` may be."""
Sample = tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, torch.Tensor]]


def _image(build: Callable[[], nn.Module], *shape: int) -> Sample:
    return build().eval(), (torch.rand(2, *shape),), {}


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _squeezenet() -> nn.Module:
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(weights=None)


def _ids() -> dict[str, torch.Tensor]:
    return {name: torch.ones(2, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}


def _bert() -> Sample:
    """MiniLM's architecture, narrow, and the head that is trained on reviews."""
    from transformers import BertConfig, BertModel

    from benchmarks.faithful.reviews import ReviewClassifier

    config = BertConfig(hidden_size=48, num_hidden_layers=6, num_attention_heads=12, intermediate_size=96)
    return ReviewClassifier(BertModel(config, add_pooling_layer=False), 48).eval(), (), _ids()


def _llama() -> Sample:
    """SmolLM2's architecture, narrow."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=36,
        intermediate_size=72,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval(), (), _ids()


NETWORKS: dict[str, Callable[[], Sample]] = {
    "efficientnet_lite0": partial(_image, partial(_timm, "tf_efficientnet_lite0"), 3, 64, 64),
    "efficientnet_lite1": partial(_image, partial(_timm, "tf_efficientnet_lite1"), 3, 64, 64),
    "efficientnet_lite2": partial(_image, partial(_timm, "tf_efficientnet_lite2"), 3, 64, 64),
    "squeezenet1_1": partial(_image, _squeezenet, 3, 64, 64),
    "cnn_fashion_mnist": partial(_image, training.cnn, 1, training.SIZE, training.SIZE),
    "vit_fashion_mnist": partial(_image, training.vit, 1, training.SIZE, training.SIZE),
    "minilm_reviews": _bert,
    "smollm2_questions": _llama,
}
"""The benchmark's models, with random weights."""


def chosen(name: str) -> lrp.Composite:
    """What `auto` is for a model."""
    model, args, kwargs = NETWORKS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        about = lrp.compile(model, args, kwargs or None, composite="auto").about
    return lrp.Composite.from_dict(about.composite)


def composite_of(method: str) -> lrp.Composite | None:
    """The composite that a method of the benchmark is; None of those that need a reference, or the range of pixels."""
    found = re.fullmatch(r"([a-z0-9-]+?)(?:\(([0-9., ]+)\))?", method)
    name, given = found.groups() if found else ("", None)
    numbers = [float(each) for each in given.split(",")] if given else []
    if name == "attnlrp-gamma" and numbers:
        # Of text models there is but the γ of dense layers.
        return (
            lrp.composites.attnlrp_gamma(*numbers) if len(numbers) > 1 else lrp.composites.attnlrp_gamma(0.25, *numbers)
        )
    return NAMED[name]() if name in NAMED and name != "epsilon-gamma-box" and not numbers else None


def score(row: Row) -> float:
    """ABPC; where an answer is looked for, how often the first token lies in it."""
    return float(row["abpc"] if "abpc" in row else row["values"]["top-1"])


def samples(row: Row) -> list[float]:
    """The same for each input."""
    found: list[float] = row["abpc_samples"] if "abpc_samples" in row else row["values_samples"]["top-1"]
    return found


def needs_reference(row: Row) -> bool:
    """Whether the method starts from another input than the one that is explained."""
    return row["method"].startswith(("reference", "differences")) or any(
        word in row["method"] for word in ("averaged", "blurred")
    )


def adds_up_layers(row: Row) -> bool:
    """Whether it is relevance summed over layers: a score, which no composite is by itself."""
    return "-over-" in row["method"]


def rows_of(name: str, rows: Iterable[Row]) -> list[Row]:
    """Ours of a model, those that are of relevance alone."""
    metrics, families = ("flipping", "answer"), ("ours", "candidate")
    mine = [row for row in rows if row["model"] == name and row["family"] in families and "failure" not in row]
    return [row for row in mine if (row["metric"] in metrics and "values" not in row) or row["metric"] == "answer"]


def line(composite: lrp.Composite, rows: list[Row], more: list[Row]) -> list[str]:
    """A model's line: what is chosen, beside the best composite of one run, and the best of what is more than that."""
    single = [row for row in rows if not needs_reference(row) and not adds_up_layers(row)]
    single.sort(key=score, reverse=True)
    mine = next(row for row in single if _same(composite_of(row["method"]), composite))
    # Of candidates the photographs are the same; networks that are trained here were others.
    others = [row for row in more if "photographs" in row["about"]]
    more_than_that = [
        max(filter(kind, [*rows, *others]), key=score, default=None) for kind in (needs_reference, adds_up_layers)
    ]
    head = [single[0]["title"], f"`{composite.name}`", composite.why.removeprefix("auto: ")]
    best = mine if score(mine) == score(single[0]) else single[0]
    apart, bounds = difference(np.array(samples(mine)), np.array(samples(best)))
    return [
        *head,
        number(score(mine)) + " (top-1)" * (best["metric"] == "answer"),
        f"{1 + sum(score(row) > score(mine) for row in single)} of {len(single)}",
        "the same" if mine is best else best["method"],
        number(score(best)),
        "" if mine is best else number(apart, bounds, sign="+"),
        "yes" if score(best) - score(mine) <= NEAR else "**no**",
        *(f"{row['method']} {number(score(row))}" if row else "–" for row in more_than_that),
    ]


def _same(first: lrp.Composite | None, second: lrp.Composite) -> bool:
    return first is not None and first.to_dict()["entries"] == second.to_dict()["entries"]


def of_models() -> str:
    """The benchmark's models."""
    found, more = (report.read(RESULTS / f"{name}.json")["rows"] for name in ("faithfulness", "candidates"))
    titles = ("model", "`auto`", "why", "ABPC", "place", "best in one run", "ABPC", "difference", f"within {NEAR}")
    lines = [line(chosen(name), rows_of(name, found), rows_of(name, more)) for name in NETWORKS]
    return table((*titles, "best with a reference", "best sum over layers"), lines, left=3)


def of_structures() -> str:
    """Networks that differ in one thing: every composite, `auto`'s in bold."""
    lines = []
    for row in structures.rows().values():
        marked = {name: f"**{row[name][0]:.3f}**" if name == row["auto"] else f"{row[name][0]:.3f}" for name in COLUMNS}
        lines.append([row["title"], row["about"], str(row["inputs"]), *marked.values()])
    return table(("network", "about", "inputs", *COLUMNS), lines, left=2)


COLUMNS = structures.METHODS


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    parts = (
        "# What `auto` chooses",
        "Made by `python -m benchmarks.faithful.chosen` of [rows](faithfulness.md) that were measured before. *Best in "
        "one run*: of our composites without a second input to compare with. […]: 95 % intervals over inputs, paired.",
        of_models(),
        "## Where structure does not tell",
        "Made of `structures.json`, which `python -m benchmarks.faithful.structures` measures: ABPC of networks that "
        "differ in one thing, on few images; bold: what `auto` takes.",
        of_structures(),
        FOUND,
    )
    reporting.write(RESULTS / "chosen.md", "\n\n".join(parts) + "\n")


FOUND = """\
A row of 18 convolutions trained on Fashion-MNIST wants γ = 0.1; SqueezeNet, whose row is as long, wants z⁺, and
still does where its photographs are made as small as 64 × 64. So neither the number of convolutions nor the size
of the maps is the reason: what a network was trained on is, and no graph tells that. For long rows `auto` takes
z⁺, because pretrained networks of that kind see photographs; whoever explains another one asks `lrp.tune`, whose
default compares composites with what `auto` took. The limit of 12 lies between what was measured, 8 and 18, and
has no other reason.

Not measured, and chosen by what the rules say: recurrent networks and graph networks (`epsilon`, whose own rules
hold recurrent gates fixed), state-space models (gates held fixed, since relevance overflows otherwise), and
networks with attention behind many convolutions (`attnlrp`).

`auto` compares with nothing. Where an image can be compared with itself blurred, that is more faithful on every image
network but SqueezeNet (last columns but one); sums over layers are on SqueezeNet alone. Neither is taken unasked: the
first explains a difference of two answers and wants the second image, the second is a score that adds up to nothing.
They are asked for by name, `composite="reference"` and `aggregate=`, and `lrp.tune` tries both."""


if __name__ == "__main__":
    main()
