"""The prompt of a question of `evidence`, word by word, coloured by what each method gives it.

    python -m benchmarks.faithful.evidence_picture 12      the number of a question that has been measured

Red speaks for the answer, blue against it; colours of a method end at its largest word, the first token left out.
The supporting sentence is underlined. Writes results/evidence.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.faithful.evidence import FOLDER, PICTURE
from benchmarks.faithful.evidence_questions import Asked, asked, questions
from benchmarks.faithful.questions import smollm2

SHOWN = ("attnlrp, 1 hop", "gradient × input", "saliency", "attention rollout")
WIDTH, LINE, SIZE = 13.0, 15.0, 8.5
"""Inches, and points: of the picture, from line to line, of the letters."""


def words(one: Asked, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """Text and tokens of each word; line breaks are words."""
    found: list[tuple[str, list[int]]] = []
    for at, token in enumerate(one.prompt.tolist()):
        text = tokenizer.decode([token])
        if found and not text[:1].isspace() and not found[-1][0].endswith("\n"):
            found[-1] = (found[-1][0] + text, [*found[-1][1], at])
        else:
            found.append((text, [at]))
    return found


def draw(one: Asked, tokenizer: Any, relevance: dict[str, np.ndarray], names: Sequence[str]) -> Any:
    """A paragraph for each method."""
    parts = words(one, tokenizer)
    figure = plt.figure(figsize=(WIDTH, 20))
    axis = figure.add_axes((0, 0, 1, 1))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale, edge, y = 72 / figure.dpi, 72 * WIDTH - 12, 10.0
    question = one.question
    axis.text(12, y, f"{question.question} “{question.lead} {question.answer}”", fontsize=12, va="top")
    y += 24
    for name in names:
        values = relevance[name].copy()
        values[0] = 0
        sums = np.array([values[tokens].sum() for _, tokens in parts])
        limit = np.abs(sums).max()
        axis.text(12, y, name, fontsize=10, weight="bold", va="top")
        x, y = 12.0, y + 18
        for (text, tokens), value in zip(parts, sums, strict=True):
            label = axis.text(0, 0, text.strip() or " ", fontsize=SIZE, va="baseline")
            width = label.get_window_extent(renderer).width * scale
            if x + width > edge:
                x, y = 12.0, y + LINE
            label.set_position((x, y + 9))
            label.set_bbox({"fc": mpl.colormaps["RdBu_r"](0.5 + 0.35 * value / limit), "ec": "none", "pad": 1.0})
            if one.sentence[tokens[0]] == question.supporting:
                axis.plot([x, x + width + 3], [y + 11.5, y + 11.5], color="black", lw=0.8, zorder=4)
            x += width + 3
            if "\n" in text:
                x, y = 12.0, y + LINE
        y += LINE + 12
    figure.set_size_inches(WIDTH, y / 72)
    axis.set(xlim=(0, 72 * WIDTH), ylim=(y, 0))
    axis.set_axis_off()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="of the question")
    options = parser.parse_args()
    tokenizer, _, _ = smollm2()
    (question,) = islice(questions(), options.number, options.number + 1)
    with np.load(FOLDER / f"{options.number}.npz") as stored:
        relevance = {name: stored[name] for name in stored.files}
    draw(asked(question, tokenizer), tokenizer, relevance, SHOWN).savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
