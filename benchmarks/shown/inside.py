"""Inside pretrained networks: concepts, heads and features, drawn and checked.

    atlas        EfficientNet-Lite0, one layer over the packaged photographs: which channels made this class?
    dataset      the same layer over 2,000 images of Fashion-MNIST, enlarged: what do its channels answer to there?
    heads        all-MiniLM-L6-v2: which heads of which layers made two sentences alike?
    circuit      EfficientNet-Lite0: what channels of three layers hand to one another, down to the pixels
    dictionary   a sparse autoencoder, trained here on film reviews and spliced into all-MiniLM-L6-v2: is the output the
                 same, and do features and error share the value's relevance?

Pictures and figures (inside.json, inside.md) go to benchmarks/results, what is trained to build/inside. The networks
are in packages of the registry, fetched the first time. About a quarter of an hour on two cores.
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
from torch import Tensor

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.faithful.reviews import reviews
from benchmarks.networks import pretrained
from benchmarks.shown import atlases, saved
from benchmarks.shown.atlases import BATCH, Report, Save
from benchmarks.shown.dictionaries import TopK, trained
from lrp_compiler import concepts

ROWS, TABLE = "inside.json", "inside.md"
KEPT = BUILD / "inside"
SEQUENCE = torch.export.Dim("sequence", max=512)


def heads(report: Report, save: Save) -> dict[str, Any]:
    """What attention's patterns have of a sentence's similarity to a request, head by head."""
    report("load all-MiniLM-L6-v2")
    tokenizer, model = pretrained.minilm()
    tokens = _tokens(tokenizer, list(pretrained.MESSAGES[:2]))
    report("compile it")
    shapes = {name: {0: BATCH, 1: SEQUENCE} for name in tokens}
    explainer = lrp.compile(model, kwargs=tokens, composite="attnlrp", observe="*softmax*", dynamic_shapes=shapes)
    explanation = explainer(**tokens)
    patterns = [values for name, values in explanation.relevance.items() if "softmax" in name]
    inside = {f"layer.{at}": values for at, values in enumerate(patterns)}
    title = "all-MiniLM-L6-v2: which heads of which layers made a message like a request?"
    labels = [f"like “{request}”" for request in pretrained.REQUESTS]
    save("heads_minilm.png", explanation.heads(inside, labels=labels, title=title))
    return {
        "model": "all-MiniLM-L6-v2",
        "composite": "attnlrp",
        "layers": len(inside),
        "heads": inside["layer.0"].shape[1],
    }


CIRCUIT = ["blocks.2.1", "blocks.4.2", "conv_head"]


def circuit(report: Report, save: Save) -> dict[str, Any]:
    """From the cat's logit through channels of three layers of EfficientNet-Lite0 down to the pixels."""
    report("load EfficientNet-Lite0")
    model, labels = pretrained.efficientnet_lite0(), pretrained.imagenet_labels()
    x = pretrained.preprocess(dict(pretrained.photos())["chelsea"])[None]
    report("compile it")
    options: dict[str, Any] = {"composite": "epsilon-plus", "seed": "tensor", "dynamic_shapes": {"x": {0: BATCH}}}
    explainer = lrp.compile(model, (x.repeat(2, 1, 1, 1),), masks=CIRCUIT, seeds=CIRCUIT, observe=CIRCUIT, **options)

    def told(done: int, of: int) -> None:
        report(f"put relevance on one node after another: {done} of {of}")

    whole = concepts.graph(explainer, x, CIRCUIT, keep=4, threshold=0, labels=labels, told=told)
    kept = whole.pruned(0.02)
    save("circuit_efficientnet_lite0.png", kept.picture(title="EfficientNet-Lite0: from the cat to its pixels"))
    off = max(abs(sum(whole.into(node.id).values()) - node.relevance) for node in whole.nodes[1:])
    return {
        "model": "EfficientNet-Lite0",
        "layers": CIRCUIT,
        "composite": "epsilon-plus",
        "explained": whole["logit"].label,
        "nodes": len(kept.nodes),
        "edges": len(kept.edges),
        "edges_off": off / abs(whole["logit"].relevance),
    }


FEATURES, K, EPOCHS, REVIEWS = 1024, 32, 5, 1500
SPLICED = "encoder.encoder.layer.3"


def dictionary(report: Report, save: Save) -> dict[str, Any]:
    """The values that leave the fourth of MiniLM's six layers, as features."""
    report("load all-MiniLM-L6-v2")
    tokenizer, model = pretrained.minilm()
    texts = [review.text for review in reviews()]
    report(f"read {REVIEWS} reviews")
    values = _values(model, tokenizer, texts[:REVIEWS])
    held = _values(model, tokenizer, texts[-500:])
    made = _dictionary(values, report)
    with torch.no_grad():
        features = made.encode(held)
        missed = (made.decode(features) - held).square().sum() / (held - held.mean(0)).square().sum()
        spoken = (features > 0).any(0).float().mean()
    report("splice it in")
    tokens = _tokens(tokenizer, list(pretrained.MESSAGES))
    shapes = {name: {0: BATCH, 1: SEQUENCE} for name in tokens}
    paths = [f"{SPLICED}.features", f"{SPLICED}.remainder"]
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.float64):
        model, made = model.to(dtype), made.to(dtype)
        options: dict[str, Any] = {"composite": "attnlrp", "kwargs": tokens, "dynamic_shapes": shapes}
        plain = lrp.compile(model, observe=SPLICED, **options)
        explainer = lrp.compile(model, observe=paths, splice={SPLICED: made}, **options)
        with torch.no_grad():
            output = model(**tokens)
        ours, whole = explainer(**tokens), plain(**tokens).relevance[SPLICED].double().sum((1, 2))
        parts = [ours.relevance[path].double().sum((1, 2)) for path in paths]
        found[str(dtype).removeprefix("torch.")] = {
            "output_off": float((ours.output - output).abs().max()),
            "parts_off": float(((parts[0] + parts[1] - whole) / whole).abs().max()),
            "share_of_features": [float(share) for share in parts[0] / whole],
        }
    relevance = ours.relevance[paths[0]].sum(1)
    names = _names(made.float(), held, model.float(), tokenizer, texts[-500:])
    strongest = [
        {
            "message": message,
            "request": pretrained.REQUESTS[int(output[row].argmax())],
            "features": {
                f"{at}: {', '.join(names[at])}": float(relevance[row, at] / relevance[row].abs().sum())
                for at in relevance[row].argsort(descending=True)[:3].tolist()
            },
        }
        for row, message in enumerate(pretrained.MESSAGES)
    ]
    return {
        "model": "all-MiniLM-L6-v2",
        "layer": SPLICED,
        "composite": "attnlrp",
        "features": FEATURES,
        "k": K,
        "tokens": len(values),
        "missed": float(missed),
        "spoken": float(spoken),
        "checked": found,
        "strongest": strongest,
    }


def _tokens(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def _values(model: Any, tokenizer: Any, texts: list[str], batch: int = 64) -> Tensor:
    """What leaves the layer at every token that is no filling: `[tokens, features]`."""
    kept: list[Tensor] = []
    mask: list[Tensor] = []
    handle = model.get_submodule(SPLICED).register_forward_hook(
        lambda module, given, out: kept.append((out[0] if isinstance(out, tuple) else out)[mask[-1].bool()])
    )
    for at in range(0, len(texts), batch):
        tokens = _tokens(tokenizer, texts[at : at + batch])
        mask.append(tokens["attention_mask"])
        model(**tokens)
    handle.remove()
    return torch.cat(kept)


def _dictionary(values: Tensor, report: Report) -> TopK:
    """The trained one, of an earlier run if there is one."""
    path = KEPT / f"minilm_{FEATURES}_{K}_{EPOCHS}_{len(values)}.pt"
    made = TopK(values.shape[1], FEATURES, K)
    if path.exists():
        made.load_state_dict(torch.load(path, weights_only=True))
        return made.eval()
    made = trained(values, FEATURES, K, EPOCHS, report)
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.save(made.state_dict(), path)
    return made


@torch.no_grad()
def _names(made: TopK, held: Tensor, model: Any, tokenizer: Any, texts: list[str]) -> list[list[str]]:
    """Of each feature the three words of the held out reviews at which it speaks loudest."""
    words: list[str] = []
    for at in range(0, len(texts), 64):
        tokens = _tokens(tokenizer, texts[at : at + 64])
        ids = tokens["input_ids"][tokens["attention_mask"].bool()]
        words += tokenizer.convert_ids_to_tokens(ids.tolist())
    features = made.encode(held)
    return [
        list(dict.fromkeys(words[place] for place in column.topk(12).indices.tolist() if column[place] > 0))[:3]
        for column in features.T
    ]


PARTS: dict[str, Callable[[Report, Save], dict[str, Any]]] = {
    "atlas": atlases.atlas,
    "dataset": atlases.dataset,
    "heads": heads,
    "circuit": circuit,
    "dictionary": dictionary,
}


def page(rows: Mapping[str, Any]) -> str:
    """The results as a page."""
    lines = ["# Inside pretrained networks", "", "`python -m benchmarks.shown.inside`; all figures: `inside.json`."]
    lines += atlases.page(rows)
    if row := rows.get("heads"):
        lines += [
            "",
            "## Heads",
            "",
            f"{row['model']}, `{row['composite']}`: relevance of attention's patterns, of {row['layers']} layers with "
            f"{row['heads']} heads each.",
            "",
            "![Relevance of each head of each layer](heads_minilm.png)",
        ]
    if row := rows.get("circuit"):
        lines += [
            "",
            "## A circuit",
            "",
            f"{row['model']}, `{row['composite']}`, explained is {row['explained']}: the four channels of "
            f"{', '.join(f'`{path}`' for path in row['layers'])} with most relevance, and the rest of each layer. What "
            "a node gets of all others is, added up, off its own relevance by at most "
            f"{row['edges_off']:.0e} of the logit (float32).",
            "",
            "![Channels of three layers, and what they hand to one another](circuit_efficientnet_lite0.png)",
        ]
    if row := rows.get("dictionary"):
        lines += [
            "",
            "## A dictionary",
            "",
            f"{row['features']} features of the value that leaves `{row['layer']}` in {row['model']}, {row['k']} at "
            f"once, trained on {row['tokens']:,} tokens of film reviews. On reviews that it has not seen it misses "
            f"{row['missed']:.1%} of the variance, and {row['spoken']:.1%} of the features speak at least once. "
            f"Spliced in, `{row['composite']}`, five messages:",
            "",
            "| dtype | output, largest difference | features + error, off the value's relevance | features have |",
            "|---|---:|---:|---:|",
            *(
                f"| {dtype} | {one['output_off']:.0e} | {one['parts_off']:.0e} | "
                f"{min(one['share_of_features']):.0%} to {max(one['share_of_features']):.0%} |"
                for dtype, one in row["checked"].items()
            ),
            "",
            "The features with most relevance, by the words at which they speak loudest in those reviews:",
            "",
            "| message | like | features, share of all features' \\|relevance\\| |",
            "|---|---|---|",
            *(
                f"| {one['message']} | {one['request']} | "
                + "; ".join(f"{name} ({share:.1%})" for name, share in one["features"].items())
                + " |"
                for one in row["strongest"]
            ),
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where pictures and figures go")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    path, console = options.folder / ROWS, reporting.console()
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(options.only or PARTS))
        for part in options.only or PARTS:
            found = PARTS[part](
                lambda doing: progress.update(task, description=doing),
                lambda name, picture: saved.save(picture, options.folder / name, dpi=120),
            )
            rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            rows[part] = found
            reporting.write_rows(path, {name: rows[name] for name in PARTS if name in rows})
            reporting.write(options.folder / TABLE, page(rows))
            progress.advance(task)
    console.print((options.folder / TABLE).read_text(encoding="utf-8"), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
