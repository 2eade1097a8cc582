"""Two pretrained networks compiled into their explainers: `make demo`, or `python -m benchmarks.shown.demo`.

An image classifier and a sentence model are compiled, written to ONNX and run in onnxruntime on real photographs and
messages; the classifier's plain ONNX file is compiled by itself as well. The terminal shows where the relevance went
and what it cost; heatmaps.png and tokens.html show the rest.
Everything is written to build/demo; nothing is downloaded. Takes a minute or two on two cores.
"""

import argparse
import os
import statistics
import string
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import lrp_compiler as lrp
from benchmarks.base.places import BUILD
from benchmarks.networks import pretrained
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.run import Explained
from lrp_compiler.explanation import Explanation
from lrp_compiler.pictures.tokens import Tokens
from lrp_compiler.runtime import OnnxExplainer

FOLDER = BUILD / "demo"
TIMED_RUNS = 9


@dataclass
class Case:
    """One explained prediction. Invariant, up to rounding: logit = relevance + everything absorbed."""

    name: str
    explained: Explained
    absorbed: dict[str, float]
    """Cause → relevance that the input did not get, from `explainer.audit`."""

    @property
    def logit(self) -> float:
        assert self.explained.logit is not None  # a class is explained
        return self.explained.logit

    @property
    def error(self) -> float:
        """What the balance lacks."""
        return self.logit - self.explained.sum - sum(self.absorbed.values())


@dataclass
class Model:
    """A network, its inputs by argument name, and how it is compiled."""

    title: str
    network: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic_shapes: dict[str, Any]
    composite: str

    def __post_init__(self) -> None:
        self.explainer_file = FOLDER / f"{self.title}.lrp.onnx"
        self.forward_file = FOLDER / f"{self.title}.forward.onnx"
        self.from_file = FOLDER / f"{self.title}.forward.lrp.onnx"
        # Two rows: with one, torch.export would take the batch size for a constant.
        self.sample = {name: tensor[:2] for name, tensor in self.inputs.items()}
        self.arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in self.inputs.items()}


# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def image_model() -> Model:
    photos = torch.stack([pretrained.preprocess(image) for _, image in pretrained.photos()])
    shapes = {"x": {0: torch.export.Dim("batch")}}
    return Model("efficientnet_lite0", pretrained.efficientnet_lite0(), {"x": photos}, shapes, "epsilon-plus")


def text_model() -> tuple[Model, Any]:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    tokenizer, network = pretrained.minilm()
    tokens = tokenizer(list(pretrained.MESSAGES), padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    return Model("minilm", network, inputs, {name: {0: batch, 1: sequence} for name in inputs}, "attnlrp"), tokenizer


def compile_model(model: Model) -> lrp.Explainer:
    """What this demo is about."""
    explainer = lrp.compile(
        model.network, (), kwargs=model.sample, composite=model.composite, dynamic_shapes=model.dynamic_shapes
    )
    explainer.to_onnx(model.explainer_file)
    return explainer


def explain(
    model: Model, explainer: lrp.Explainer, names: Sequence[str], answers: Sequence[str]
) -> tuple[Explanation[np.ndarray], list[Case]]:
    """All rows, run in onnxruntime; what each row absorbed, from torch's audit."""
    explanation = OnnxExplainer(model.explainer_file)(**model.arrays)
    cases = []
    for name, case in zip(names, explanation.explained(answers), strict=True):
        row = {key: tensor[case.row : case.row + 1] for key, tensor in model.inputs.items()}
        cases.append(Case(name, case, explainer.audit(**row).absorbed))
    return explanation, cases


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


def median_times(model: Model) -> tuple[float, float]:
    """Seconds in onnxruntime for the plain model and for its explainer (prediction included), one row each."""
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            model.network,
            (),
            kwargs=model.sample,
            dynamic_shapes=model.dynamic_shapes,
            dynamo=True,
            opset_version=20,
            verbose=False,
        )
    assert program is not None  # it is, where dynamo=True
    with atomic_path(model.forward_file) as path:
        program.save(path, external_data=False)
    feed = {name: array[:1] for name, array in model.arrays.items()}
    forward = onnxruntime.InferenceSession(model.forward_file)
    explainer = OnnxExplainer(model.explainer_file)
    runs = {"forward": lambda: forward.run(None, feed), "explainer": lambda: explainer(**feed)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    # The runs alternate, so that a slow moment of the machine hits both; the first two warm up.
    for _ in range(2 + TIMED_RUNS):
        for name, run in runs.items():
            # An idle session's threads spin for a while before they sleep, and would slow down the other session.
            time.sleep(0.02)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["forward"][2:]), statistics.median(seconds["explainer"][2:])


# ── a file of somebody else's ────────────────────────────────────────────────────────────────────────────────────────


def explained_from_file(model: Model, known: Explanation[np.ndarray]) -> float:
    """Compile the plain model's ONNX file, and explain a row in onnxruntime.

    Returns:
        The largest difference from the relevance by the explainer of the module, as a share of Σ|R| of that row.
    """
    explainer = lrp.compile(model.forward_file, composite=model.composite)
    explainer.to_onnx(model.from_file)
    row = OnnxExplainer(model.from_file)(**{name: array[:1] for name, array in model.arrays.items()})
    (found,), (name, *_) = row.relevance.values(), known.relevance
    return float(np.abs(found - known.relevance[name][:1]).max() / np.abs(known.relevance[name][:1]).sum())


# ── what it shows ────────────────────────────────────────────────────────────────────────────────────────────────────


def balance_table(title: str, columns: Sequence[str], cases: Sequence[Case]) -> Table:
    """Where each value went; `columns` name the case, the answer, the value and the input."""
    # A share that would read 0.0000 everywhere gets no column; the error counts it all the same.
    causes = sorted({cause for case in cases for cause, share in case.absorbed.items() if not abs(share) < 5e-5})
    table = Table(
        title=title, title_justify="left", title_style="bold", show_lines=any("\n" in case.name for case in cases)
    )
    for index, column in enumerate([*columns, *(f"absorbed\nby {cause}" for cause in causes), "error"]):
        table.add_column(column, justify="right" if index > 1 else "left", max_width=48)
    for case in cases:
        shares = [case.logit, case.explained.sum, *(case.absorbed.get(cause, 0.0) for cause in causes)]
        table.add_row(case.name, case.explained.name, *(f"{share:.4f}" for share in shares), f"{case.error:+.0e}")
    return table


def cost_table(models: Sequence[Model], times: Sequence[tuple[float, float]]) -> Table:
    table = Table(title="What an explanation costs in onnxruntime", title_justify="left", title_style="bold")
    for column in ("", "forward", "forward + explanation", "ratio", "forward file", "explainer file"):
        table.add_column(column, justify="right" if column else "left")
    for model, (forward, explanation) in zip(models, times, strict=True):
        sizes = [f"{file.stat().st_size / 1e6:.1f} MB" for file in (model.forward_file, model.explainer_file)]
        milliseconds = [f"{1e3 * seconds:.1f} ms" for seconds in (forward, explanation)]
        table.add_row(model.title, *milliseconds, f"{explanation / forward:.2f}×", *sizes)
    return table


def strongest(cases: Sequence[Case], tokens: Tokens) -> None:
    """Below each message the three words that speak most for the answer."""
    for case, row in zip(cases, tokens, strict=True):
        best = sorted(row, key=lambda pair: -pair[1])[:3]
        case.name += "\n→ " + ", ".join(word for word, _ in best)


def write_heatmaps(explanation: Explanation[np.ndarray], file: Path) -> None:
    """Photos, and relevance beside them."""
    photos = [pretrained.crop(image) for _, image in pretrained.photos()]
    picture = explanation.heatmap(photos, labels=pretrained.imagenet_labels(), style="beside", columns=2, smooth=1)
    picture.save(file, dpi=120)


PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Which words decided?</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2.5rem auto; padding: 0 1rem }</style>
<h1>Which words decided?</h1>
<p>A sentence model compares each message with $count requests. Its similarity to the closest one, the logit, is shared
out over the words.</p>
$tokens
</html>
""")


def write_tokens(explanation: Explanation[np.ndarray], tokenizer: Any, file: Path) -> None:
    """A self-contained page: each message with its tokens coloured by relevance."""
    tokens = explanation.tokens(tokenizer, labels=[f"like “{request}”" for request in pretrained.REQUESTS])
    with atomic_path(file) as path:
        path.write_text(PAGE.substitute(count=len(pretrained.REQUESTS), tokens=tokens.html()), encoding="utf-8")


# ── the demo ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def step(progress: Progress, description: str) -> Iterator[None]:
    task = progress.add_task(description, total=1)
    yield
    progress.advance(task)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console = Console()
    if not console.is_terminal:
        # A pipe has no width, and the 80 columns that rich falls back to would break the tables.
        console = Console(width=140)
    FOLDER.mkdir(parents=True, exist_ok=True)
    line = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*line, console=console, disable=not console.is_terminal) as progress:
        with step(progress, "Load EfficientNet-Lite0 and the sentence model MiniLM"):
            images, (texts, tokenizer) = image_model(), text_model()
        with step(progress, "Compile EfficientNet-Lite0 and write its explainer"):
            image_explainer = compile_model(images)
        with step(progress, "Compile MiniLM and write its explainer"):
            text_explainer = compile_model(texts)
        with step(progress, "Explain photos and messages in onnxruntime; audit each in torch"):
            photo_names = [name for name, _ in pretrained.photos()]
            pixels, photos = explain(images, image_explainer, photo_names, pretrained.imagenet_labels())
            words, messages = explain(texts, text_explainer, pretrained.MESSAGES, pretrained.REQUESTS)
        with step(progress, "Draw them"):
            write_heatmaps(pixels, FOLDER / "heatmaps.png")
            write_tokens(words, tokenizer, FOLDER / "tokens.html")
            strongest(messages, words.tokens(tokenizer, words=True, special=False))
        with step(progress, "Time the explainers against the plain models"):
            times = [median_times(model) for model in (images, texts)]
        with step(progress, "Compile EfficientNet-Lite0's plain ONNX file, as if nothing else were there"):
            difference = explained_from_file(images, pixels)
    console.print(balance_table("Which pixels decided?", ("photo", "prediction", "logit", "pixels"), photos))
    console.print(
        "Batch norms fold into strong biases, which z⁺ gives most of a logit; heatmaps show where the rest lands.\n"
    )
    columns = ("message → strongest words", "closest request", "similarity", "words")
    console.print(balance_table("Which words decided?", columns, messages))
    console.print(
        "Nothing goes missing: value = share of the input + what biases and the like absorbed + rounding error.\n"
    )
    console.print(cost_table((images, texts), times))
    console.print(
        "Compiled from the plain ONNX file instead of the module, EfficientNet-Lite0 is explained alike: pixels differ "
        f"by {difference:.0e} of all relevance at most.\n"
    )
    console.print("Written:")
    written = (images.explainer_file, texts.explainer_file, images.from_file)
    for file in (FOLDER / "heatmaps.png", FOLDER / "tokens.html", *written):
        console.print(f"  {os.path.relpath(file)}", highlight=False)
    console.print("Run an explainer anywhere with numpy and onnxruntime, without torch:")
    path = os.path.relpath(images.explainer_file)
    console.print(f'  lrp_compiler.runtime.OnnxExplainer("{path}")(x).relevance["x"]', highlight=False)


if __name__ == "__main__":
    main()
