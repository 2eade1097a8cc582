"""Where the relevance of a prediction goes: the books of seven architectures at published width, and of a real one.

    python -m benchmarks.sound.balance                 logit = Σ inputs + absorbed, by cause; books in float64
    python -m benchmarks.sound.balance --zero-biases   nothing for biases to absorb: what the inputs get, beside Zennit

Weights are random (those of the tests), but for EfficientNet-Lite0, which is also explained as trained on ImageNet.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.networks import pretrained
from tests.support import zennit_oracle
from tests.support.module_form import module_form
from tests.support.zoo import SEVEN, logits_of, zero_biases

IMAGES = {"image_size": 224, "classes": 1000}
PUBLISHED: dict[str, dict[str, int]] = {
    "vgg16": IMAGES,
    "resnet50": IMAGES,
    "efficientnet_lite0": IMAGES,
    "vit_b_16": IMAGES,
    "bert": {"vocabulary": 30522, "length": 128},
    "gpt2": {"vocabulary": 50257, "length": 128},
    # A quarter of the width: in float64 the whole of it would fill 20 GB.
    "llama": {"vocabulary": 32000, "length": 128, "width": 4},
}
TRAINED = "efficientnet_lite0, trained"
COMPOSITES = ("epsilon", "epsilon-plus", "attnlrp")
CONVOLUTIONAL = ("vgg16", "resnet50", "efficientnet_lite0", TRAINED)
BIAS_FREE_COMPOSITES = ("epsilon", "epsilon-plus")


@dataclass(frozen=True)
class Network:
    """A model in eval mode and one row of input for it."""

    name: str
    model: nn.Module
    args: tuple[Tensor, ...]

    def compile(self, composite: str) -> lrp.Explainer:
        return lrp.compile(self.model, self.args, composite=composite)


def build(name: str, width: int | None) -> Network:
    """A network by its name in `PUBLISHED`, or the trained one; `width` divides the published width."""
    if name == TRAINED:
        photo = pretrained.preprocess(pretrained.photos()[0][1])
        return Network(name, pretrained.efficientnet_lite0(), (photo.unsqueeze(0),))
    options = {"width": 1, **PUBLISHED[name]}
    example = SEVEN[name].build(**options | ({} if width is None else {"width": width}))
    args, _ = example.fresh(batch=1, seed=5)
    return Network(name, example.model, args)


def books(networks: Iterator[Network], report: Callable[[str], None]) -> Table:
    """A row for each network and composite: logit = Σ inputs + absorbed + error."""
    causes = ("bias", "constant", "softmax", "stabiliser", "empty")
    table = Table(title="Where the logit goes", title_justify="left", title_style="bold")
    for column in ("network", "composite"):
        table.add_column(column)
    for column in ("logit", "Σ inputs", "Σ|inputs|", *causes, "|error| / Σ|inputs|"):
        table.add_column(column, justify="right")
    for network in networks:
        for composite in COMPOSITES:
            if composite == "epsilon-plus" and network.name not in CONVOLUTIONAL and network.name != "vit_b_16":
                continue  # without convolutions it is "epsilon"
            report(f"{network.name}, {composite}")
            audit = network.compile(composite).audit(*network.args)
            shares = [audit.seed, sum(audit.inputs.values()), audit.magnitude]
            absorbed = dict(audit.absorbed)
            shares += [absorbed.pop(cause, 0.0) for cause in causes]
            assert not any(absorbed.values()), f"no column for {absorbed}"
            error = abs(audit.error) / audit.magnitude
            table.add_row(network.name, composite, *(f"{share:.4g}" for share in shares), f"{error:.0e}")
        table.add_section()
    return table


def without_biases(networks: Iterator[Network], report: Callable[[str], None]) -> Table:
    """What the inputs get in float32 where biases, means and shifts are zero, and what Zennit gives them in float64."""
    table = Table(
        title="Biases, batch norms' means and shifts zero", title_justify="left", title_style="bold", show_lines=True
    )
    for column in ("network", "composite"):
        table.add_column(column)
    for column in ("logit", "Σ inputs\n(float32)", "share of\nthe logit", "empty", "stabiliser"):
        table.add_column(column, justify="right")
    for column in ("Zennit's Σ inputs\n(float64)", "largest difference\n/ max |R| (float64)"):
        table.add_column(column, justify="right")
    for network in networks:
        zero_biases(network.model)
        for composite in BIAS_FREE_COMPOSITES:
            report(f"{network.name}, {composite}")
            explainer = network.compile(composite)
            explanation, audit = explainer(*network.args), explainer.audit(*network.args)
            logit = float(logits_of(explanation.output).amax().double())
            total = float(explanation.relevance["x"].double().sum())
            theirs, difference = beside_zennit(network, composite)
            absorbed = audit.absorbed
            shares = [logit, total, total / logit, absorbed.get("empty", 0.0), absorbed["stabiliser"], theirs]
            table.add_row(network.name, composite, *(f"{share:.6g}" for share in shares), f"{difference:.0e}")
    return table


def beside_zennit(network: Network, composite: str) -> tuple[float, float]:
    """Zennit's Σ R in float64, and the largest difference from ours in float64 as a share of max |R|."""
    single = next(network.model.parameters()).dtype
    model = network.model.double()
    (x,) = (tensor.double() for tensor in network.args)
    with torch.no_grad():
        target = model(x).argmax(-1)
    theirs = zennit_oracle.relevance(module_form(model), x, target, composite)
    ours = lrp.compile(model, (x,), composite=composite)(x).relevance["x"]
    network.model.to(single)
    return float(theirs.sum()), float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*PUBLISHED, TRAINED]
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"all by default: {'; '.join(names)}")
    parser.add_argument("--zero-biases", action="store_true", help="the second table, for the convolutional networks")
    parser.add_argument("--width", type=int, help="divide the published width by this; default 1, Llama 4")
    options = parser.parse_args()
    unknown = set(options.networks) - set(names)
    if unknown:
        parser.error(f"no network {sorted(unknown)[0]!r}: choose from {'; '.join(names)}")
    wanted = options.networks or names
    if options.zero_biases:
        wanted = [name for name in wanted if name in CONVOLUTIONAL]
    spinner = Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), transient=True)
    with spinner as progress:
        task = progress.add_task("")

        def report(stage: str) -> None:
            progress.update(task, description=stage)

        def networks() -> Iterator[Network]:
            for name in wanted:
                report(f"{name}, weights")
                yield build(name, options.width)

        table = (without_biases if options.zero_biases else books)(networks(), report)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


if __name__ == "__main__":
    main()
