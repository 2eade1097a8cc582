"""Pretrained networks, end to end: compiled, written to ONNX, run in onnxruntime, and drawn.

    speech      Whisper tiny.en transcribes a clip: which audio frames made each word?
    sentence    all-MiniLM-L6-v2 compares messages with requests: which words made them alike?
    question    SmolLM2-135M-Instruct answers a question about a context: which tokens made the answer?
    photos      EfficientNet-Lite0 on labelled ImageNet photographs: which pixels made this class?
    photos2     SqueezeNet 1.1 on the same photographs

Pictures and their figures (pictures.json) go to benchmarks/results, explainers to build/pictures. The networks are in
packages of the registry, fetched the first time. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.networks import pretrained
from benchmarks.shown import saved
from benchmarks.shown.checked import Explained, Report
from lrp_compiler.pictures.common import smoothed
from lrp_compiler.pictures.figure import Picture

FIGURES = "pictures.json"
EXAMPLES = """examples:
  python -m benchmarks.shown.pictures                     all pictures
  python -m benchmarks.shown.pictures --only speech       one of them; the figures of the others stay
  python -m benchmarks.shown.pictures --folder elsewhere  written there, created if need be
"""
Save = Callable[[str, Picture], None]

# ── the pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def speech(report: Report, save: Save) -> dict[str, Any]:
    """Whisper: a row of the batch for each word of the transcript."""
    report("load Whisper tiny.en")
    tokenizer, model = pretrained.whisper_tiny()
    clip = pretrained.clip("quick_brown_fox")
    features = pretrained.log_mel(clip.samples)
    tokens = pretrained.transcribe(model, features)
    transcript = tokenizer.decode(tokens).strip()
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=448)
    explained = Explained(
        "whisper_tiny_en",
        report,
        model,
        kwargs={"input_features": features.repeat(2, 1, 1), "decoder_input_ids": torch.tensor([tokens, tokens])},
        composite="attnlrp",
        target=lrp.Target("index", output="logits", position="index"),
        dynamic_shapes={"input_features": {0: batch}, "decoder_input_ids": {0: batch, 1: sequence}},
    )
    words = [at for at, token in enumerate(tokens) if tokenizer.decode([token]).strip().isalpha()]
    tensors = {
        "input_features": features.repeat(len(words), 1, 1),
        "decoder_input_ids": torch.tensor([tokens] * len(words)),
        "target": torch.tensor([tokens[at] for at in words]),
        "position": torch.tensor(words) - 1,  # the token at a position is predicted at the one before
    }
    report("explain each word")
    explanation = explained.explain(tensors)
    heard = len(clip.samples) / pretrained.SAMPLE_RATE

    def word(token: int) -> str:
        return f"“{tokenizer.decode([token]).strip()}”"

    picture = explanation.spectrogram(
        input="input_features",
        labels=word,
        rate=pretrained.FRAMES_PER_SECOND,
        seconds=heard,
        smooth=2,
        percentile=100,
        title=f"Whisper tiny.en hears “{transcript}” — which audio made each word?",
    )
    save("whisper_tiny_en.png", picture)
    cases = list(explained.figures(report, explanation, tensors, word, every=3))
    for case, relevance in zip(cases, explanation.relevance["input_features"], strict=True):
        peak = smoothed(relevance.sum(0), 5, [0])[: round(heard * pretrained.FRAMES_PER_SECOND)].argmax()
        case["peak_seconds"] = int(peak) / pretrained.FRAMES_PER_SECOND
    return {
        "model": "Whisper tiny.en",
        "composite": "attnlrp",
        "target": "the token's logit where it was predicted",
        "spoken": clip.transcript,
        "transcribed": transcript,
        "cases": cases,
    }


def sentence(report: Report, save: Save) -> dict[str, Any]:
    """MiniLM: messages to a help desk, each compared with five requests."""
    report("load all-MiniLM-L6-v2")
    tokenizer, model = pretrained.minilm()
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    encoded = tokenizer(list(pretrained.MESSAGES), padding=True, return_tensors="pt")
    tensors = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    explained = Explained(
        "minilm",
        report,
        model,
        kwargs={name: tensor[:2] for name, tensor in tensors.items()},
        composite="attnlrp",
        dynamic_shapes={name: {0: batch, 1: sequence} for name in tensors},
    )
    explanation = explained.explain(tensors)
    labels = [f"like “{request}”" for request in pretrained.REQUESTS]
    title = "all-MiniLM-L6-v2 compares messages with requests — which words made them alike?"
    save("minilm.png", explanation.tokens(tokenizer, labels=labels, words=True).figure(title, width=12))
    return {
        "model": "all-MiniLM-L6-v2",
        "composite": "attnlrp",
        "target": "the largest similarity",
        "messages": list(pretrained.MESSAGES),
        "cases": list(explained.figures(report, explanation, tensors, labels)),
    }


CONTEXT = "Oskar lives in Prague. He repairs old violins. His sister Marta lives in Lisbon and bakes bread."
QUESTION = "In which city does Marta live?"
RIVAL = " Prague"
"""The other city in the context."""


def question(report: Report, save: Save) -> dict[str, Any]:
    """SmolLM2: the answer's first token, that of the wrong city, and why the one rather than the other."""
    report("load SmolLM2-135M-Instruct")
    tokenizer, model = pretrained.smollm2()
    ids = tokenizer(f"{CONTEXT}\n\nQuestion: {QUESTION}\nAnswer:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        answer = int(model(input_ids=ids).logits[0, -1].argmax())
    rival = tokenizer(RIVAL, add_special_tokens=False)["input_ids"][0]
    explained = Explained(
        "smollm2_135m",
        report,
        model,
        kwargs={"input_ids": ids.repeat(2, 1)},
        composite="attnlrp",
        target=[answer, rival, (answer, rival)],
        dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=2048)}},
    )
    tensors = {"input_ids": ids}
    explanation = explained.explain(tensors)
    title = "SmolLM2-135M-Instruct answers a question — which tokens made the answer, and not the other city?"
    save("smollm2_135m.png", explanation.tokens(tokenizer).figure(title, width=13))
    return {
        "model": "SmolLM2-135M-Instruct, weights of four bits as float32",
        "composite": "attnlrp",
        "target": "logits at the last position",
        "context": CONTEXT,
        "question": QUESTION,
        "cases": list(explained.figures(report, explanation, tensors, lambda token: tokenizer.decode([token]).strip())),
    }


SHOWN_PHOTOS = 12


def photos(report: Report, save: Save) -> dict[str, Any]:
    """EfficientNet-Lite0 on the first labelled photographs, as they come."""
    report("load EfficientNet-Lite0")
    model = pretrained.efficientnet_lite0()
    return _photos(
        "EfficientNet-Lite0",
        "efficientnet_lite0",
        model,
        pretrained.preprocess,
        pretrained.crop,
        report,
        save,
        "beside",
    )


def photos2(report: Report, save: Save) -> dict[str, Any]:
    """SqueezeNet 1.1 on the same photographs."""
    report("load SqueezeNet 1.1")
    model = pretrained.squeezenet1_1()

    def crop(image: Image.Image) -> Image.Image:
        return pretrained.crop(image, pretrained.CAFFE_SIZE)

    return _photos("SqueezeNet 1.1", "squeezenet1_1", model, pretrained.preprocess_caffe, crop, report, save, "overlay")


def _photos(
    title: str,
    name: str,
    model: torch.nn.Module,
    preprocess: Callable[[Image.Image], torch.Tensor],
    crop: Callable[[Image.Image], Image.Image],
    report: Report,
    save: Save,
    style: str,
) -> dict[str, Any]:
    labels = pretrained.imagenet_labels()
    shown = pretrained.imagenet_photos()[:SHOWN_PHOTOS]
    tensors = {"x": torch.stack([preprocess(photo.image) for photo in shown])}
    explained = Explained(
        name,
        report,
        model,
        args=(tensors["x"][:2],),
        composite="epsilon-plus",
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    )
    report(f"explain {len(shown)} photographs")
    explanation = explained.explain(tensors)
    picture = explanation.heatmap(
        [crop(photo.image) for photo in shown],
        labels=labels,
        style=style,
        smooth=1.5,
        columns=3 if style == "beside" else 4,
        title=f"{title} on ImageNet photographs — which pixels made the class?",
    )
    save(f"{name}.png", picture)
    cases = list(explained.figures(report, explanation, tensors, labels))
    for case, photo in zip(cases, shown, strict=True):
        case |= {"photo": photo.name, "label": labels[photo.label]}
    return {"model": title, "composite": "epsilon-plus", "target": "the largest logit", "cases": cases}


# ── all ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

PARTS: dict[str, Callable[[Report, Save], dict[str, Any]]] = {
    "speech": speech,
    "sentence": sentence,
    "question": question,
    "photos": photos,
    "photos2": photos2,
}


def table(part: str, found: Mapping[str, Any]) -> Table:
    title = f"{found['model']}, {found['composite']}"
    result = Table(title=title, title_justify="left", title_style="bold")
    for column in ("explained", "logit", "Σ relevance", "absorbed", "balance error", "onnxruntime against torch"):
        result.add_column(column, justify="left" if column == "explained" else "right")
    for case in found["cases"]:
        lines = case["explained"]
        columns = [
            [line["target"] for line in lines],
            [f"{line['logit']:.4f}" for line in lines],
            [f"{sum(line['relevance'].values()):.4f}" for line in lines],
        ]
        books = ["–"] * 3
        if "absorbed" in case:
            errors = [f"{case['balance_error']:+.0e}", f"{case['onnxruntime_against_torch']:.0e}"]
            books = [f"{sum(case['absorbed'].values()):.4f}", *errors]
        result.add_row(*map("\n".join, columns), *books)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where pictures and figures go")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    console = reporting.console()
    written = []

    def save(name: str, picture: Picture) -> None:
        saved.save(picture, options.folder / name)
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
