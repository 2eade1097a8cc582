"""Do differences from a reference add up? `reference`, captum's DeepLift and SHAP's DeepExplainer on real networks.

Each is asked what f(x) − f(x₀) owes to each input, in float64; the error is |Σ R − (f(x) − f(x₀))|, as a share of
|f(x) − f(x₀)|. captum and SHAP read networks module by module: what a network does between its modules, and modules
that they do not know, go by the gradient. SHAP lies in an environment of its own, build/shap, made where there is none.

Rows are kept as they come in results/completeness.json; the table: results/completeness.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import benchmarks.networks.torchvision_operators  # noqa: F401  captum and SHAP import torchvision
import lrp_compiler as lrp
from benchmarks.base import beside, processes, reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.faithful import flipping, images, report
from benchmarks.networks import pretrained

MODULE = "benchmarks.faithful.completeness"
SHAP = ("shap==0.51.0",)
INPUTS = 8


@dataclass(frozen=True)
class Case:
    """A network of floats, in float64: inputs, where they are compared with, and which output is explained.

    Args:
        model: in eval mode; `x` → outputs `[batch, outputs]`.
        x, reference: of one shape, a row an input.
        target: int64 `[rows]`.
        about: for the table.
    """

    model: nn.Module
    x: Tensor
    reference: Tensor
    target: Tensor
    about: str

    def said(self, x: Tensor) -> Tensor:
        """The outputs that are explained, `[rows]`."""
        with torch.no_grad():
            outputs: Tensor = self.model(x)
        return outputs.gather(1, self.target[:, None])[:, 0]


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class OfEmbeddings(nn.Module):
    """A network of tokens as a function of its word embeddings `[batch, sequence, features]`."""

    def __init__(self, model: nn.Module, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.model(inputs_embeds=x))


def _images(name: str) -> Case:
    loaded = images.MODELS[name].load(False).first(INPUTS)
    model, x = loaded.model.double(), loaded.x.double()
    with torch.no_grad():
        target = model(x).argmax(-1)
    return Case(model, x, flipping.blurred(x, loaded.sigma), target, "from the blurred image")


def _mean(output: Any) -> Tensor:
    mean: Tensor = output.last_hidden_state.mean(1)
    return mean


def _next_token(output: Any) -> Tensor:
    logits: Tensor = output.logits[:, -1]
    return logits


def _tokens(load: Callable[[], tuple[Any, nn.Module]], read: Callable[[Any], Tensor], about: str) -> Case:
    """The first words of messages to a help desk, from as many end tokens."""
    tokenizer, model = load()
    ids = [tokenizer(text)["input_ids"][:12] for text in (*pretrained.MESSAGES, *pretrained.REQUESTS)]
    ids = torch.tensor([each[:8] for each in ids if len(each) >= 8][:INPUTS])
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    nothing = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.eos_token_id
    with torch.no_grad():
        x, reference = (table(each).double() for each in (ids, torch.full_like(ids, nothing)))
        made = OfEmbeddings(model.double().eval(), read).eval()
        target = made(x).argmax(-1)
    return Case(made, x, reference, target, about)


def _encoder() -> tuple[Any, nn.Module]:
    tokenizer, model = pretrained.minilm()
    encoder: Any = model.encoder
    return tokenizer, encoder


def _norms_in_float64() -> tuple[Any, nn.Module]:
    """SmolLM2, whose norms calculate in float32 whatever the model's dtype, without that: what is left of its error."""
    tokenizer, model = pretrained.smollm2()
    for norm in model.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.forward = partial(_rms_norm, norm)
    return tokenizer, model


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    scaled: Tensor = norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return scaled


NEXT = "from end tokens; the next token's logit"
NETWORKS: dict[str, tuple[str, Callable[[], Case]]] = {
    "cnn_fashion_mnist": ("CNN on Fashion-MNIST", partial(_images, "cnn_fashion_mnist")),
    "squeezenet1_1": ("SqueezeNet 1.1", partial(_images, "squeezenet1_1")),
    "efficientnet_lite0": ("EfficientNet-Lite0", partial(_images, "efficientnet_lite0")),
    "vit_fashion_mnist": ("ViT on Fashion-MNIST", partial(_images, "vit_fashion_mnist")),
    "minilm": ("MiniLM (BERT)", partial(_tokens, _encoder, _mean, "from [MASK] tokens; largest feature of the mean")),
    "smollm2": (
        "SmolLM2-135M (Llama), norms in float32 as it has them",
        partial(_tokens, pretrained.smollm2, _next_token, NEXT),
    ),
    "smollm2_float64": (
        "SmolLM2-135M (Llama), norms in float64",
        partial(_tokens, _norms_in_float64, _next_token, NEXT),
    ),
}

# ── methods: relevance shaped like x ─────────────────────────────────────────────────────────────────────────────────


def ours(case: Case) -> Tensor:
    explainer = lrp.compile(case.model, (case.x[:1],), composite="reference", target="index")
    rows = range(len(case.x))
    with torch.no_grad():
        return torch.cat([_row(explainer, case, slice(at, at + 1)) for at in rows])


def _row(explainer: lrp.Explainer, case: Case, rows: slice) -> Tensor:
    found = explainer(case.x[rows], target=case.target[rows], reference=case.reference[rows])
    return next(iter(found.relevance.values()))


def not_in_place(model: nn.Module) -> nn.Module:
    """A copy whose functions write nothing in place, which peers' hooks do not survive."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def captum(case: Case) -> Tensor:
    from captum.attr import DeepLift

    found: Tensor = DeepLift(not_in_place(case.model)).attribute(case.x, case.reference, target=case.target)
    return found.detach()


def shap(case: Case) -> Tensor:
    from shap import DeepExplainer

    found, model = [], not_in_place(case.model)
    for at in range(len(case.x)):
        rows = slice(at, at + 1)
        explained = DeepExplainer(OneOutput(model, int(case.target[at])), case.reference[rows])
        found.append(
            np.asarray(explained.shap_values(case.x[rows], check_additivity=False)).reshape(case.x[rows].shape)
        )
    return torch.from_numpy(np.concatenate(found))


class OneOutput(nn.Module):
    """A network's output of one number, `[batch, 1]`."""

    def __init__(self, model: nn.Module, at: int) -> None:
        super().__init__()
        self.model, self.at = model, at

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        return outputs[:, self.at : self.at + 1]


METHODS: dict[str, tuple[str, Callable[[Case], Tensor]]] = {
    "reference": ("ours", ours),
    "captum DeepLift": ("peer", captum),
    "shap DeepExplainer": ("peer", shap),
}

# ── rows and table ───────────────────────────────────────────────────────────────────────────────────────────────────


def measured(name: str, methods: list[str]) -> Iterator[report.Row]:
    title, load = NETWORKS[name]
    case = load()
    change = case.said(case.x) - case.said(case.reference)
    for method in methods:
        family, explain = METHODS[method]
        row = {"model": name, "title": title, "about": case.about, "method": method, "family": family}
        try:
            relevance = explain(case)
        except Exception as error:  # what a peer cannot do is a row too
            if family == "ours":
                raise
            yield row | {"failure": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
            continue
        errors = (relevance.flatten(1).sum(1) - change).abs() / change.abs()
        yield row | {"errors": [float(f"{value:.3g}") for value in errors.tolist()]}


def markdown(rows: list[report.Row]) -> str:
    lines = []
    for name, (title, _) in NETWORKS.items():
        mine = {row["method"]: row for row in rows if row["model"] == name}
        if mine:
            about = next(iter(mine.values()))["about"]
            lines.append([title, about, *(shown(mine[method]) if method in mine else "–" for method in METHODS)])
    parts = [
        "# Do differences add up?",
        f"Written by `python -m {MODULE}` from `completeness.json`. |Σ R − (f(x) − f(x₀))| as a share of "
        f"|f(x) − f(x₀)|, in float64: median and largest of {INPUTS} inputs.",
        report.table(("network", "compared", *METHODS), lines, left=2),
    ]
    failures = [row for row in rows if "failure" in row]
    parts += [f"- {row['title']}, {row['method']}: {row['failure']}" for row in failures]
    return "\n\n".join(parts) + "\n"


def shown(row: report.Row) -> str:
    if "failure" in row:
        return "fails"
    return f"{np.median(row['errors']):.0e}, {max(row['errors']):.0e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="MODEL")
    parser.add_argument("--here", action="store_true", help="in this environment, whatever it holds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.here and not options.tables:

        def fill(pip: list[str | Path]) -> None:
            subprocess.run([*pip, *SHAP], check=True)

        python = beside.made(BUILD / "shap", fill)
        again = processes.command(MODULE, "--here", *sys.argv[1:], python=python, quiet=True)
        return subprocess.run(again, env=os.environ | processes.environment(python)).returncode
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    console, path = reporting.console(), RESULTS / "completeness.json"
    found = report.read(path)
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(options.models))
        for name in () if options.tables else options.models:
            progress.update(task, description=name)
            known = {row["method"] for row in found["rows"] if row["model"] == name}
            if missing := [method for method in METHODS if method not in known]:
                for row in measured(name, missing):
                    found["rows"].append(row)
                    report.write(path, found)
            progress.advance(task)
    reporting.write(RESULTS / "completeness.md", markdown(found["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
