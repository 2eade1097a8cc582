"""`summarise`: what the explanations of a data set have in common."""

import argparse
import sys
from pathlib import Path

from lrp_compiler.base.counted import counted

from .. import kinds
from ..paths import must_exist
from ..reporting import report

PURPOSE = "say what a data set's explanations have in common, class by class, and write a page of it"
EXAMPLE = (
    "lrp-compiler summarise out --labels labels.txt\n"
    "  lrp-compiler summarise out --tokenizer tokenizer.json -o reviews.html"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """Where the explanations are, and what they are named by."""
    command.add_argument("folder", type=Path, metavar="OUT", help="written by explain")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page (default: OUT/summary.html)")
    command.add_argument("--input", metavar="NAME", help="whose relevance, if there are several")
    command.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes: one a line, or a JSON list")
    command.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="of texts, for their tokens' names")
    command.add_argument(
        "--no-clusters",
        dest="clusters",
        action="store_false",
        help="do not group heatmaps, and do without scikit-learn",
    )
    command.add_argument("--seed", type=kinds.count, default=0, metavar="N", help="of what is drawn (default: 0)")


def do(arguments: argparse.Namespace) -> None:
    """Summarise the explanations."""
    must_exist(arguments.folder)
    from lrp_compiler.data import summarise
    from lrp_compiler.website.page_spec import read_labels

    summary = summarise(
        arguments.folder,
        arguments.output,
        labels=None if arguments.labels is None else read_labels(arguments.labels, None),
        progress=sys.stderr.isatty(),
        **{name: getattr(arguments, name) for name in ("input", "tokenizer", "clusters", "seed")},
    )
    lines = []
    for one in summary.classes:
        groups = f", {len(one.groups)} groups of alike maps ({one.apart:.2f} apart)" if len(one.groups) > 1 else ""
        words = [", ".join(token.token for token in side[:5]) for side in (one.tokens_for, one.tokens_against)]
        said = [f"; {side}: {tokens}" for side, tokens in zip(("for", "against"), words, strict=True) if tokens]
        lines.append(f"{one.name}: {counted(one.rows, 'row')}, relevance {one.relevance[0]:.4g}{groups}{''.join(said)}")
    report(arguments, summary.to_dict(), "\n".join([*lines, f"wrote {summary.report}"]))
