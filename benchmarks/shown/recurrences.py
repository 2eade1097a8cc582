"""What made a recurrence say so, over sequences of any length: Silero's voice detector, and a tagger of words.

    voice    silero_vad_16k_sequence.onnx as it is in its package: STFT, convolutions, an LSTM over frames of 32 ms,
             whose number is open. Somebody speaks a sentence: which frames made the file say "speech" at one?
    tagger   a bidirectional LSTM trained here on Python's manual (`benchmarks.networks.tagger`): which words made it
             say that a word began with a capital, where a sentence begins

Both explainers are ONNX files run in onnxruntime. Pictures go to benchmarks/results (recurrences_voice.png,
recurrences_tagger.png), what was counted to recurrences.json and recurrences.md. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.networks import pretrained
from benchmarks.networks.pretrained.packages import unpacked
from benchmarks.networks.tagger import first_words, manual, trained
from benchmarks.shown import saved
from lrp_compiler.pictures.figure import COLOURS, Picture
from lrp_compiler.runtime import OnnxExplainer

FILES = BUILD / "recurrences"
FRAME, CONTEXT = 512, 64
"""Samples of a frame, and of the one before that stand in front of it."""
SECONDS = FRAME / pretrained.SAMPLE_RATE
BEFORE = 12
SHOWN = 8


class Voice(nn.Module):
    """frames `[frames, 576]` and two states → the probability of speech in each, `[1, frames, 1]`."""

    def __init__(self) -> None:
        super().__init__()
        self.file = lrp.from_onnx(str(voice_file()))

    def forward(self, frames: Tensor, h: Tensor, c: Tensor) -> Tensor:
        probabilities, *_ = self.file(frames, h, c)
        return torch.as_tensor(probabilities.reshape(1, -1, 1))


def voice_file() -> Any:
    return unpacked("silero-vad") / "silero_vad" / "data" / "silero_vad_16k_sequence.onnx"


def in_frames(samples: np.ndarray) -> np.ndarray:
    """Samples in frames, each with the last 64 samples before it."""
    count = len(samples) // FRAME
    whole = np.concatenate([np.zeros(CONTEXT, np.float32), samples[: count * FRAME]])
    return np.stack([whole[at * FRAME : at * FRAME + FRAME + CONTEXT] for at in range(count)])


def voice(silence: float = 0.5) -> tuple[Picture, dict[str, Any]]:
    """Silence, then the clip."""
    clip = pretrained.clip("quick_brown_fox")
    quiet = np.random.default_rng(0).normal(0, 1e-4, round(silence * pretrained.SAMPLE_RATE)).astype(np.float32)
    frames = in_frames(np.concatenate([quiet, clip.samples]))
    state = np.zeros((1, 1, 128), np.float32)
    feeds = {"frames": frames, "h": state, "c": state}
    own = onnxruntime.InferenceSession(voice_file()).run(["speech_probs"], {"input": frames, "h": state, "c": state})[0]
    example = tuple(torch.as_tensor(array) for array in (frames[:6], state, state))
    explainer = lrp.compile(
        Voice().eval(),
        example,
        composite="attnlrp",
        target=lrp.Target(0, position="index"),
        dynamic_shapes={"frames": {0: torch.export.Dim("frames", min=2)}, "h": None, "c": None},
    )
    FILES.mkdir(parents=True, exist_ok=True)
    explainer.to_onnx(FILES / "voice.lrp.onnx")
    session = OnnxExplainer(FILES / "voice.lrp.onnx")
    first = int((own > 0.5).argmax())
    asked = [first, *range(first + 12, len(frames), 12)]
    found = [session(**feeds, position=np.array([at])) for at in asked]
    maps = np.stack([one.relevance["frames"].sum(1) for one in found])
    there = explainer(*(torch.as_tensor(feeds[name]) for name in feeds), position=torch.tensor([asked[1]]))
    largest = float(there.relevance["frames"].abs().max())
    books = explainer.audit(*(torch.as_tensor(feeds[name]) for name in feeds), position=torch.tensor([asked[1]]))
    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    positive = maps.clip(min=0)
    within = [row[max(0, at - 15) : at + 1].sum() / row.sum() for row, at in zip(positive, asked, strict=True)]
    facts = {
        "frames": len(frames),
        "explained frames": len(asked),
        "output, largest difference from the file's own": float(np.abs(found[0].output.reshape(-1) - own).max()),
        "onnxruntime against torch, of the largest relevance": float(
            np.abs(there.relevance["frames"].numpy() - found[1].relevance["frames"]).max() / largest
        ),
        "books, of the explained value": abs(books.seed - absorbed - sum(books.inputs.values())) / abs(books.explained),
        "relevance behind the explained frame, largest": float(
            max(np.abs(row[at + 1 :]).max(initial=0.0) for row, at in zip(maps, asked, strict=True))
        ),
        "share of positive relevance in the last half second, median": float(np.median(within)),
    }
    return _drawn(frames, own, maps, asked, clip.transcript), facts


def _drawn(frames: np.ndarray, own: np.ndarray, maps: np.ndarray, asked: list[int], said: str) -> Picture:
    picture = Picture(figsize=(11, 5.4), layout="constrained")
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    end = len(frames) * SECONDS
    samples = frames[:, CONTEXT:].reshape(-1)
    above.plot(np.linspace(0, end, len(samples)), samples, color="0.6", linewidth=0.5)
    above.set_ylabel("samples")
    probability = above.twinx()
    probability.plot((np.arange(len(own)) + 0.5) * SECONDS, own, color="black", linewidth=1.2)
    probability.set_ylabel("P(speech)")
    probability.set_ylim(-0.05, 1.05)
    above.set_title(f"Silero's detector hears “{said}” — what made it say so?")
    scaled = maps / np.abs(maps).max(1, keepdims=True)
    rows = np.arange(len(asked) + 1) - 0.5
    below.pcolormesh(np.arange(len(frames) + 1) * SECONDS, rows, scaled, cmap=COLOURS, vmin=-1, vmax=1)
    below.plot([(at + 0.5) * SECONDS for at in asked], range(len(asked)), "k|", markersize=14)
    below.set_yticks(range(len(asked)), [f"at {at * SECONDS:.2f} s" for at in asked])
    below.invert_yaxis()
    below.set_xlabel("seconds; a bar marks the frame that is explained, each row is scaled by its largest")
    return picture


def tagger() -> tuple[Picture, dict[str, Any]]:
    text = manual()
    model, right = trained(text)
    ids = first_words(text, 50, before=BEFORE)
    sizes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    explainer = lrp.compile(
        model, (ids[:2, :6],), composite="attnlrp", target=lrp.Target(1, position="index"), dynamic_shapes=sizes
    )
    FILES.mkdir(parents=True, exist_ok=True)
    explainer.to_onnx(FILES / "tagger.lrp.onnx")
    position = np.full(len(ids), BEFORE)
    explanation = OnnxExplainer(FILES / "tagger.lrp.onnx")(ids.numpy(), position=position)
    relevance = explanation.relevance["ids"]
    said = explanation.output[:, BEFORE].argmax(-1) == 1
    positive = relevance.clip(min=0)
    there = explainer(ids, position=torch.as_tensor(position)).relevance["ids"].numpy()
    books = explainer.audit(ids, position=torch.as_tensor(position))
    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    facts = {
        "words tagged rightly": right,
        "sentences": len(ids),
        "first words that it says began with a capital": float(said.mean()),
        "the full stop is the most relevant token": float((relevance[said].argmax(1) == BEFORE - 1).mean()),
        "share of positive relevance on it": float((positive[said, BEFORE - 1] / positive[said].sum(1)).mean()),
        "chance": 1 / ids.shape[1],
        "onnxruntime against torch, of the largest relevance": float(
            np.abs(relevance - there).max() / np.abs(there).max()
        ),
        "books, of the explained value": abs(books.seed - absorbed - sum(books.inputs.values())) / abs(books.explained),
    }
    shown = np.flatnonzero(said)[:SHOWN]
    picture = Picture(figsize=(13, 0.5 * SHOWN + 1.2), layout="constrained")
    axes = picture.subplots()
    rows = relevance[shown] / np.abs(relevance[shown]).max(1, keepdims=True)
    axes.imshow(rows, cmap=COLOURS, vmin=-1, vmax=1, aspect="auto")
    for row, number in enumerate(shown):
        for column, token in enumerate(ids[number].tolist()):
            dark = abs(rows[row, column]) > 0.6
            bold = "bold" if column == BEFORE else "normal"
            axes.text(
                column, row, text.vocabulary[token], ha="center", va="center", fontsize=7, fontweight=bold,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks([BEFORE], ["the word that is explained"])
    axes.set_yticks([])
    axes.set_title("A bidirectional LSTM says that this word began with a capital — which words made it say so?")
    return picture, facts


PARTS = {"voice": voice, "tagger": tagger}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    parts = [
        "# Recurrences on real input",
        "Written by `python -m benchmarks.shown.recurrences`; its docstring says what is asked.",
    ]
    for part, facts in found.items():
        lines = [f"| {name} | {value:,.3g} |" for name, value in facts.items()]
        parts += [
            f"## {part.capitalize()}",
            "\n".join(["| what | |", "|---|---:|", *lines]),
            f"![{part}](recurrences_{part}.png)",
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = reporting.console()
    path = RESULTS / "recurrences.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for part in options.only:
        picture, facts = PARTS[part]()
        saved.save(picture, RESULTS / f"recurrences_{part}.png")
        found[part] = facts
        console.print(part, facts, highlight=False)
    reporting.write_rows(path, found)
    reporting.write(RESULTS / "recurrences.md", markdown(found))


if __name__ == "__main__":
    main()
