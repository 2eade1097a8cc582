"""Two pretrained networks compiled into their explainers: `make demo`, or `python benchmarks/demo.py`.

An image classifier and a sentence model are compiled, written to ONNX and run in onnxruntime on real photographs and
messages. The terminal shows where the relevance went and what it cost; heatmaps.png and tokens.html show the rest.
Everything is written to build/demo; nothing is downloaded. Takes a minute or two on two cores.
"""

import html
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
import pretrained
import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.files import atomic_path
from lrp_compiler.runtime import OnnxExplainer

FOLDER = Path(__file__).resolve().parents[1] / "build" / "demo"
TIMED_RUNS = 9


@dataclass
class Case:
    """One explained prediction. Invariant, up to rounding: value = relevance + everything absorbed."""

    name: str
    answer: str
    """What the model said, in words."""
    value: float
    """The number explained: a logit or a similarity."""
    relevance: np.ndarray
    """Relevance of the input: `[height, width]`, summed over channels, or `[sequence]`."""
    absorbed: dict[str, float]
    """Cause → relevance that the input did not get, from `explainer.audit`."""
    details: dict[str, Any]
    """What only the picture or the page of this case needs."""

    @property
    def error(self) -> float:
        """What the balance lacks."""
        return self.value - float(self.relevance.sum(dtype=np.float64)) - sum(self.absorbed.values())


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


def explain(model: Model, explainer: lrp.Explainer) -> tuple[np.ndarray, dict[str, np.ndarray], list[dict[str, float]]]:
    """Outputs and relevance of all rows, run in onnxruntime; what each row absorbed, from torch's audit."""
    explanation = OnnxExplainer(model.explainer_file)(**model.arrays)
    outputs = np.asarray(explanation.output)
    rows = range(len(outputs))
    audits = [explainer.audit(**{name: tensor[row : row + 1] for name, tensor in model.inputs.items()}) for row in rows]
    return outputs, explanation.relevance, [audit.absorbed for audit in audits]


def photo_cases(model: Model, explainer: lrp.Explainer) -> list[Case]:
    outputs, relevance, absorbed = explain(model, explainer)
    labels = pretrained.imagenet_labels()
    cases = []
    for row, (name, image) in enumerate(pretrained.photos()):
        logits = outputs[row]
        probability = np.exp(logits - logits.max())
        best = int(logits.argmax())
        answer = f"{labels[best]} ({probability[best] / probability.sum():.0%})"
        details = {"image": pretrained.crop(image)}
        cases.append(Case(name, answer, float(logits[best]), relevance["x"][row].sum(axis=0), absorbed[row], details))
    return cases


def message_cases(model: Model, explainer: lrp.Explainer, tokenizer: Any) -> list[Case]:
    outputs, relevance, absorbed = explain(model, explainer)
    cases = []
    for row, message in enumerate(pretrained.MESSAGES):
        similarities, words = outputs[row], relevance["input_ids"][row]
        best = int(similarities.argmax())
        tokens = tokenizer.convert_ids_to_tokens(model.inputs["input_ids"][row])
        details = {"tokens": tokens, "similarities": similarities.tolist(), "best": best}
        name = f"{message}\n→ " + ", ".join(tokens[index] for index in np.argsort(-words)[:3])
        value = float(similarities[best])
        cases.append(Case(name, pretrained.REQUESTS[best], value, words, absorbed[row], details))
    return cases


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
        shares = [case.value, case.relevance.sum(), *(case.absorbed.get(cause, 0.0) for cause in causes)]
        table.add_row(case.name, case.answer, *(f"{share:.4f}" for share in shares), f"{case.error:+.0e}")
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


def write_heatmaps(cases: Sequence[Case], file: Path) -> None:
    """Photos above, relevance below: red speaks for the prediction, blue against it, grey is the photo."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(cases), figsize=(2.5 * len(cases), 5.9), layout="constrained")
    for (above, below), case in zip(axes.T, cases, strict=True):
        image = np.asarray(case.details["image"])
        above.imshow(image)
        above.set_title(f"{case.answer}\nlogit {case.value:.2f}", fontsize=10)
        # A few pixels dwarf all others: beyond the 99.5th percentile the colour says only "much".
        limit = np.percentile(np.abs(case.relevance), 99.5) or 1.0
        scaled = np.clip(case.relevance / limit, -1, 1)
        below.imshow(image.mean(axis=2), cmap="gray", vmin=-300, vmax=330)
        below.imshow(scaled, cmap="seismic", vmin=-1.6, vmax=1.6, alpha=np.abs(scaled) ** 0.5)
        absorbed = sum(case.absorbed.values())
        below.set_title(f"pixels {case.relevance.sum():.2g}, absorbed {absorbed:.4g}", fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.supxlabel("red speaks for the prediction, blue against it; colours are scaled for each photo", fontsize=10)
    with atomic_path(file) as path:
        figure.savefig(path, dpi=120)
    pyplot.close(figure)


PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which words decided?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2.5rem auto; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ddd; padding: 1rem 0; margin-top: 1rem }
.tokens { display: flex; flex-wrap: wrap; gap: .35rem .2rem }
.tokens span, mark { padding: .1rem .35rem; border-radius: .3rem; text-align: center; color: inherit }
.tokens .piece { margin-left: -.35rem }
small { display: block; font-size: .7rem; line-height: 1.1; color: #555 }
table { font-size: .85rem; color: #555 }
.best { font-weight: 600; color: #222 }
td { padding-right: 1rem; font-variant-numeric: tabular-nums }
</style>
<h1>Which words decided?</h1>
<p>A sentence model compares each message with $count requests. Its similarity to the closest one is shared out over the
words: <mark style="background: $positive">red</mark> words made the message more similar to that request,
<mark style="background: $negative">blue</mark> words less. The small numbers are thousandths of similarity; colours are
scaled for each message.</p>
$sections
</html>
""")


def colour(strength: float) -> str:
    """Red for +1, blue for −1, transparent for 0."""
    red, green, blue = (214, 50, 40) if strength > 0 else (40, 90, 214)
    return f"rgba({red}, {green}, {blue}, {0.65 * min(abs(strength), 1.0):.3f})"


def message_section(case: Case) -> str:
    """One message as HTML: its tokens, the balance, and the similarity to every request."""
    limit = float(np.abs(case.relevance).max()) or 1.0
    spans = []
    for token, relevance in zip(case.details["tokens"], case.relevance.tolist(), strict=True):
        if token == "[PAD]":
            continue
        attributes = f'style="background: {colour(relevance / limit)}"' + ' class="piece"' * token.startswith("##")
        word = html.escape(token.removeprefix("##"))
        spans.append(f"<span {attributes}>{word}<small>{round(1e3 * relevance):+d}</small></span>")
    rows = []
    for index, similarity in enumerate(case.details["similarities"]):
        attributes = ' class="best"' * (index == case.details["best"])
        request = html.escape(pretrained.REQUESTS[index])
        rows.append(f"<tr{attributes}><td>{request}</td><td>{similarity:.3f}</td></tr>")
    absorbed = ", ".join(f"{html.escape(cause)} {share:+.3f}" for cause, share in sorted(case.absorbed.items()))
    return (
        f"<section><p>Closest request: <b>{html.escape(case.answer)}</b></p>"
        f'<div class="tokens">{"".join(spans)}</div>'
        f"<p>similarity {case.value:.3f} = words {case.relevance.sum():+.3f}; absorbed by {absorbed}</p>"
        f"<table>{''.join(rows)}</table></section>"
    )


def write_tokens(cases: Sequence[Case], file: Path) -> None:
    """A self-contained page: each message with its tokens coloured by relevance."""
    page = PAGE.substitute(
        count=len(pretrained.REQUESTS),
        positive=colour(0.7),
        negative=colour(-0.7),
        sections="\n".join(map(message_section, cases)),
    )
    with atomic_path(file) as path:
        path.write_text(page, encoding="utf-8")


# ── the demo ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def step(progress: Progress, description: str) -> Iterator[None]:
    task = progress.add_task(description, total=1)
    yield
    progress.advance(task)


def main() -> None:
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
            photos = photo_cases(images, image_explainer)
            messages = message_cases(texts, text_explainer, tokenizer)
        with step(progress, "Draw them"):
            write_heatmaps(photos, FOLDER / "heatmaps.png")
            write_tokens(messages, FOLDER / "tokens.html")
        with step(progress, "Time the explainers against the plain models"):
            times = [median_times(model) for model in (images, texts)]
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
    console.print("Written:")
    for file in (FOLDER / "heatmaps.png", FOLDER / "tokens.html", images.explainer_file, texts.explainer_file):
        console.print(f"  {os.path.relpath(file)}", highlight=False)
    console.print("Run an explainer anywhere with numpy and onnxruntime, without torch:")
    path = os.path.relpath(images.explainer_file)
    console.print(f'  lrp_compiler.runtime.OnnxExplainer("{path}")(x).relevance["x"]', highlight=False)


if __name__ == "__main__":
    main()
