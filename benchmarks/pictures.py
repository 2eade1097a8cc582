"""Pretrained networks, end to end: compiled, written to ONNX, run in onnxruntime, and drawn.

    speech     Whisper tiny.en transcribes a clip: which audio frames made this token?
    text       SmolLM2-135M-Instruct answers a question about a context: which tokens made the answer?
    photos     EfficientNet-Lite0 on labelled ImageNet photographs: which pixels made this class?

Pictures and their figures (pictures.json) go to benchmarks/results, explainers to build/pictures. The networks are in
packages of the registry, fetched the first time. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pretrained
import reporting
import torch
from PIL import Image
from rich.table import Table

import lrp_compiler as lrp
from lrp_compiler.files import atomic_path
from lrp_compiler.runtime import OnnxExplainer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
EXPLAINERS = HERE.parent / "build" / "pictures"
FIGURES = "pictures.json"
COLOURS = "RdBu_r"
EXAMPLES = """examples:
  python benchmarks/pictures.py                     all three pictures
  python benchmarks/pictures.py --only speech       one of them; the figures of the others stay
  python benchmarks/pictures.py --folder elsewhere  written there, created if need be
"""
Report = Callable[[str], None]

# ── explained values ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Case:
    """One explained logit: `logit = Σ relevance + Σ absorbed`, up to rounding."""

    name: str
    prediction: str
    logit: float
    relevance: Mapping[str, np.ndarray]
    """By input, without the batch."""
    absorbed: Mapping[str, float]
    """What the inputs did not get, by cause."""
    difference: float
    """Between onnxruntime and torch: the largest, as a share of the largest relevance."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only the picture needs."""

    @property
    def sum(self) -> float:
        return sum(float(values.sum(dtype=np.float64)) for values in self.relevance.values())

    def figures(self) -> dict[str, Any]:
        sums = {name: float(values.sum(dtype=np.float64)) for name, values in self.relevance.items()}
        return {
            "case": self.name,
            "prediction": self.prediction,
            "logit": self.logit,
            "relevance": sums,
            "absorbed": dict(self.absorbed),
            "balance_error": self.logit - self.sum - sum(self.absorbed.values()),
            "onnxruntime_against_torch": self.difference,
            **{key: value for key, value in self.details.items() if isinstance(value, (int, float, str))},
        }


class Explained:
    """A model as its explainer, in torch and in onnxruntime."""

    def __init__(self, name: str, report: Report, model: torch.nn.Module, **options: Any) -> None:
        report(f"compile {name}")
        self.torch = lrp.compile(model, **options)
        report(f"write {name} to ONNX")
        EXPLAINERS.mkdir(parents=True, exist_ok=True)
        path = EXPLAINERS / f"{name}.lrp.onnx"
        self.torch.to_onnx(path)
        report(f"load {name} in onnxruntime")
        self.onnx = OnnxExplainer(path)

    def case(self, name: str, inputs: Mapping[str, torch.Tensor], options: Mapping[str, int]) -> Case:
        """Explain one row in onnxruntime, check it against torch, and keep the books."""
        chosen = {key: torch.tensor([value]) for key, value in options.items()}
        arrays = {key: value.numpy() for key, value in {**inputs, **chosen}.items()}
        found = self.onnx(**arrays)
        checked = self.torch(**inputs, **chosen)
        books = self.torch.audit(**inputs, **chosen)
        difference = max(
            float(np.abs(values - checked.relevance[key].numpy()).max() / np.abs(values).max())
            for key, values in found.relevance.items()
        )
        relevance = {key: values[0] for key, values in found.relevance.items()}
        output = found.output["logits"] if isinstance(found.output, Mapping) else found.output
        position = options.get("position", -1)
        row = output[0] if output.ndim == 2 else output[0, position]
        picked = options.get("target", int(row.argmax()))
        case = Case(name, "", float(row[picked]), relevance, books.absorbed, difference)
        case.details["output"] = row
        return case


def reduced(image: Image.Image) -> Image.Image:
    """In 256 colours, rare ones among them: a third of the bytes."""
    image = image.convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def smoothed(values: np.ndarray, width: float, axes: Sequence[int]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    for axis in axes:
        values = gaussian_filter1d(values, width, axis=axis)
    return values


# ── speech ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def speech(report: Report, save: Callable[[str, Any], None]) -> dict[str, Any]:
    """Whisper: one row of two for each word of the transcript."""
    composite = "attnlrp"
    report("load Whisper tiny.en")
    tokenizer, model = pretrained.whisper_tiny()
    clip = pretrained.clip("quick_brown_fox")
    features = pretrained.log_mel(clip.samples)
    tokens = pretrained.transcribe(model, features)
    transcript = tokenizer.decode(tokens).strip()
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=448)
    decoded = torch.tensor([tokens])
    inputs = {"input_features": features, "decoder_input_ids": decoded}
    explained = Explained(
        "whisper_tiny_en",
        report,
        model,
        kwargs={name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in inputs.items()},
        composite=composite,
        target=lrp.Target("index", output="logits", position="index"),
        dynamic_shapes={"input_features": {0: batch}, "decoder_input_ids": {0: batch, 1: sequence}},
    )
    cases = []
    for position, token in enumerate(tokens):
        word = tokenizer.decode([token]).strip()
        if not word.isalpha():
            continue
        report(f"explain “{word}”")
        # The token at a position is predicted at the one before.
        case = explained.case(word, inputs, {"target": token, "position": position - 1})
        case.prediction = word
        heard = len(clip.samples) * pretrained.FRAMES_PER_SECOND // pretrained.SAMPLE_RATE
        by_frame = case.relevance["input_features"].sum(0)
        case.details["peak_seconds"] = int(smoothed(by_frame, 5, [0])[:heard].argmax()) / pretrained.FRAMES_PER_SECOND
        case.details["relevance_of_the_silence_after_the_clip"] = float(by_frame[heard:].sum())
        cases.append(case)
    save("whisper_tiny_en.png", draw_speech(cases, features[0, :, :heard].numpy(), transcript, composite))
    return {
        "model": "Whisper tiny.en",
        "composite": composite,
        "target": "the token's logit where it was predicted",
        "spoken": clip.transcript,
        "transcribed": transcript,
        "cases": [case.figures() for case in cases],
    }


def draw_speech(cases: Sequence[Case], spectrogram: np.ndarray, transcript: str, composite: str) -> Any:
    from matplotlib import pyplot

    rows = -(-len(cases) // 3)
    bands, frames = spectrogram.shape
    seconds = np.arange(frames) / pretrained.FRAMES_PER_SECOND
    figure = pyplot.figure(figsize=(15, 1.3 + 3.4 * rows), layout="constrained")
    grid = figure.add_gridspec(2 * rows, 3, height_ratios=[2, 1] * rows)
    for index, case in enumerate(cases):
        row, column = divmod(index, 3)
        above = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=above)
        relevance = case.relevance["input_features"][:, :frames]
        spread = smoothed(relevance, 2, [0, 1])
        strength = np.clip(spread / np.abs(spread).max(), -1, 1)
        where = {"origin": "lower", "aspect": "auto", "extent": (0, seconds[-1], 0, bands)}
        above.imshow(spectrogram, cmap="gray", vmin=spectrogram.min() - 0.3, **where)
        above.imshow(strength, cmap=COLOURS, vmin=-1, vmax=1, alpha=np.abs(strength) ** 0.5, **where)
        audio, text = (float(case.relevance[name].sum()) for name in ("input_features", "decoder_input_ids"))
        above.set_title(f"“{case.prediction}”", fontsize=15, fontweight="bold", loc="left")
        above.set_title(
            f"logit {case.logit:.2f}, Σ relevance {case.sum:.2f}\n= audio {audio:.2f} + text before {text:.2f}",
            fontsize=10,
            loc="right",
        )
        above.set_ylabel("mel band", fontsize=10)
        above.tick_params(labelbottom=False)
        by_frame = smoothed(relevance.sum(0), 2, [0])
        below.fill_between(seconds, by_frame.clip(min=0), color="#b2182b", linewidth=0)
        below.fill_between(seconds, by_frame.clip(max=0), color="#2166ac", linewidth=0)
        below.axhline(0, color="black", linewidth=0.6)
        limit = 1.1 * np.abs(by_frame).max()
        below.set(ylim=(-limit, limit), xlim=(0, seconds[-1]))
        below.set_ylabel("relevance", fontsize=10)
        below.set_xlabel("seconds", fontsize=10)
    figure.suptitle(
        f"Whisper tiny.en hears “{transcript}” — which audio made each word?\n"
        f"composite {composite}, target: the word's logit; red speaks for the word, blue against it; "
        "colours are scaled for each word",
        fontsize=13,
    )
    return figure


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

CONTEXT = "Oskar lives in Prague. He repairs old violins. His sister Marta lives in Lisbon and bakes bread."
QUESTION = "In which city does Marta live?"
RIVAL = " Prague"
"""The other city in the context."""


def text(report: Report, save: Callable[[str, Any], None]) -> dict[str, Any]:
    """SmolLM2: the answer's first token, that of the wrong city, and the difference."""
    composite = "attnlrp"
    report("load SmolLM2-135M-Instruct")
    tokenizer, model = pretrained.smollm2()
    ids = tokenizer(f"{CONTEXT}\n\nQuestion: {QUESTION}\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1]
    answer = int(logits.argmax())
    rival = tokenizer(RIVAL, add_special_tokens=False)["input_ids"][0]
    explained = Explained(
        "smollm2_135m",
        report,
        model,
        kwargs={"input_ids": ids.repeat(2, 1)},
        composite=composite,
        target="index",
        dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=2048)}},
    )
    cases = []
    for token in (answer, rival):
        word = tokenizer.decode([token])
        report(f"explain “{word.strip()}”")
        case = explained.case(word.strip(), {"input_ids": ids}, {"target": token})
        case.prediction = word
        case.details["probability"] = float(logits.softmax(-1)[token])
        cases.append(case)
    pieces = [tokenizer.decode([token]) for token in ids[0].tolist()]
    save("smollm2_135m.png", draw_text(cases, pieces, composite))
    return {
        "model": "SmolLM2-135M-Instruct, weights of four bits as float32",
        "composite": composite,
        "target": "the logit at the last position",
        "context": CONTEXT,
        "question": QUESTION,
        "cases": [case.figures() for case in cases],
    }


def draw_text(cases: Sequence[Case], pieces: Sequence[str], composite: str) -> Any:
    from matplotlib import pyplot

    answer, rival = cases
    first, second = (case.relevance["input_ids"] for case in cases)
    panels = [
        (
            f"“{case.prediction.strip()}” ({case.details['probability']:.1%}): logit {case.logit:.2f}, "
            f"Σ relevance of the tokens {case.sum:.2f}",
            values,
        )
        for case, values in ((answer, first), (rival, second))
    ]
    panels.append(
        (
            f"why “{answer.prediction.strip()}” rather than “{rival.prediction.strip()}”: difference of the two, "
            f"logits {answer.logit - rival.logit:+.2f}, Σ relevance {answer.sum - rival.sum:+.2f}",
            first - second,
        )
    )
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(13, 3.1 * len(panels) + 1.2))
    for axis, (title, values) in zip(axes, panels, strict=True):
        _draw_tokens(axis, pieces, values)
        axis.set_title(title, fontsize=13, loc="left")
    figure.suptitle(
        f"SmolLM2-135M-Instruct answers a question — which tokens made the answer's first token?\n"
        f"composite {composite}, target: the logit after “Answer:”; red speaks for it, blue against it\n"
        "small numbers: relevance; colours are scaled for each panel",
        fontsize=13,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    return figure


def _draw_tokens(axis: Any, pieces: Sequence[str], values: np.ndarray) -> None:
    """The tokens as running text, each in a box of its colour, its relevance below."""
    from matplotlib import colormaps

    colours = colormaps[COLOURS]
    limit = float(np.abs(values).max())
    width, x, line = 100.0, 0.0, 0
    for piece, value in zip(pieces, values.tolist(), strict=True):
        shown = piece.strip("\n") or "⏎"
        label = f"{value:+.2f}"
        size = max(1.25 * len(shown.strip()) + 1.2, 1.0 * len(label) + 0.6)
        if x + size > width:
            x, line = 0.0, line + 1
        strength = value / limit
        colour = colours(0.5 + 0.42 * strength)
        axis.add_patch(
            _rectangle((x, -line - 0.86), size - 0.25, 0.78, facecolor=colour, edgecolor="#999999", linewidth=0.4)
        )
        ink = "white" if abs(strength) > 0.7 else "black"
        axis.text(x + size / 2, -line - 0.36, shown.strip(), ha="center", va="center", fontsize=12, color=ink)
        axis.text(x + size / 2, -line - 0.7, label, ha="center", va="center", fontsize=7.5, color=ink)
        x += size
        if "\n" in piece and x > 0:
            x, line = 0.0, line + 1
    axis.set(xlim=(-0.3, width), ylim=(-line - 1.05, 0.05))
    axis.set_axis_off()


def _rectangle(*args: Any, **options: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **options)


# ── photos ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN_PHOTOS = 12


def photos(report: Report, save: Callable[[str, Any], None]) -> dict[str, Any]:
    """EfficientNet-Lite0 on the first labelled photographs, as they come."""
    composite = "epsilon-plus"
    report("load EfficientNet-Lite0")
    model = pretrained.efficientnet_lite0()
    labels = pretrained.imagenet_labels()
    shown = pretrained.imagenet_photos()[:SHOWN_PHOTOS]
    images = torch.stack([pretrained.preprocess(photo.image) for photo in shown])
    explained = Explained(
        "efficientnet_lite0",
        report,
        model,
        args=(images[:2],),
        composite=composite,
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    )
    cases = []
    for photo, image in zip(shown, images, strict=True):
        report(f"explain {photo.name}")
        case = explained.case(photo.name, {"x": image.unsqueeze(0)}, {})
        logits = torch.from_numpy(case.details["output"])
        best = int(logits.argmax())
        case.prediction = labels[best]
        case.details |= {
            "probability": float(logits.softmax(-1)[best]),
            "label": labels[photo.label],
            "image": pretrained.crop(photo.image),
        }
        cases.append(case)
    save("efficientnet_lite0.png", draw_photos(cases, composite))
    return {
        "model": "EfficientNet-Lite0",
        "composite": composite,
        "target": "the largest logit",
        "cases": [case.figures() for case in cases],
    }


def draw_photos(cases: Sequence[Case], composite: str) -> Any:
    from matplotlib import pyplot

    pairs = 3
    rows = -(-len(cases) // pairs)
    figure, axes = pyplot.subplots(rows, 2 * pairs, figsize=(13, 2.6 * rows + 0.9), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for index, case in enumerate(cases):
        row, pair = divmod(index, pairs)
        left, right = axes[row, 2 * pair], axes[row, 2 * pair + 1]
        image = np.asarray(case.details["image"])
        left.imshow(image)
        missed = "" if case.prediction == case.details["label"] else f"\n(label: {case.details['label']})"
        left.set_title(
            textwrap.shorten(f"{case.prediction}, {case.details['probability']:.0%}", 30) + missed, fontsize=9
        )
        summed = smoothed(case.relevance["x"].sum(0), 1.5, [0, 1])
        # A few pixels dwarf all others: beyond this the colour says only "much".
        strength = np.clip(summed / np.percentile(np.abs(summed), 99.5), -1, 1)
        right.imshow(image.mean(axis=2), cmap="gray", vmin=-200, vmax=300)
        right.imshow(strength, cmap=COLOURS, vmin=-1, vmax=1, alpha=np.abs(strength) ** 0.5)
        right.set_title(f"logit {case.logit:.2f}\nΣ relevance {case.sum:.2g}", fontsize=9)
    figure.suptitle(
        "EfficientNet-Lite0 on ImageNet photographs — which pixels made the class?\n"
        f"composite {composite}, target: the largest logit; red speaks for the class, blue against it; "
        "colours are scaled for each photo\n"
        "(folded batch norms are biases, and z⁺ leaves nearly all of a logit to them: the sums are small)",
        fontsize=12,
    )
    return figure


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

PARTS: dict[str, Callable[[Report, Callable[[str, Any], None]], dict[str, Any]]] = {
    "speech": speech,
    "text": text,
    "photos": photos,
}


def table(part: str, found: Mapping[str, Any]) -> Table:
    title = f"{found['model']}, {found['composite']}"
    result = Table(title=title, title_justify="left", title_style="bold")
    for column in ("explained", "logit", "Σ relevance", "absorbed", "balance error", "onnxruntime against torch"):
        result.add_column(column, justify="left" if column == "explained" else "right")
    for case in found["cases"]:
        figures = [case["logit"], sum(case["relevance"].values()), sum(case["absorbed"].values())]
        errors = [f"{case['balance_error']:+.0e}", f"{case['onnxruntime_against_torch']:.0e}"]
        result.add_row(case["prediction"].strip(), *(f"{figure:.4f}" for figure in figures), *errors)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where pictures and figures go")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    console = reporting.console()
    written = []

    def save(name: str, figure: Any) -> None:
        with atomic_path(options.folder / name) as path:
            figure.savefig(path, dpi=90)
            with Image.open(path) as image:
                image.load()
            reduced(image).save(path, optimize=True)
        pyplot.close(figure)
        written.append(options.folder / name)

    parts = options.only or list(PARTS)
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(parts))
        for part in parts:
            try:
                found = PARTS[part](lambda doing: progress.update(task, description=doing), save)
            except pretrained.UnavailableError as error:
                progress.stop()
                console.print(f"No picture of {part}: {error}", style="red", highlight=False, soft_wrap=True)
                return 1
            path = options.folder / FIGURES
            figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            figures[part] = found
            reporting.write_rows(path, {name: figures[name] for name in PARTS if name in figures})
            progress.advance(task)
            console.print(table(part, found))
    for file in written:
        console.print(f"Written: {file.name}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
