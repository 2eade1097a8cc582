"""A static website around an explainer's ONNX file: onnxruntime-web runs it in the visitor's browser. Torch-free.

    from .page import page

    page("m.lrp.onnx", "site", labels="labels.txt", mean=[0.5], std=[0.5], crop=0.875)

The folder needs a web server that hands out files, under any path, and nothing else: what the page asks for lies in it.
`web/` has the page itself; what it must know about the explainer is written to `site.json`.
"""

import functools
import http.server
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_folder
from lrp_compiler.base.npm import Package, copy_package
from lrp_compiler.base.seal import file_digest
from lrp_compiler.formats import ONNX, ends_in
from lrp_compiler.runtime import OnnxExplainer

from .page_spec import (
    Numbers,
    declared,
    explanation,
    image_input,
    main_input,
    one_of,
    preprocessing,
    read_labels,
    read_tokenizer,
    text_input,
)

ONNXRUNTIME_WEB = Package(
    "onnxruntime-web",
    "1.30.0",
    {
        "dist/ort.wasm.bundle.min.mjs": "ort.js",  # some web servers do not know what .mjs is
        "dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
        "package.json": "package.json",
    },
)
TOKENIZERS = Package(
    "@huggingface/tokenizers",
    "0.2.0",
    {"dist/tokenizers.min.mjs": "tokenizers.js", "LICENSE": "LICENSE", "package.json": "package.json"},
)

_MARK = "lrp_compiler page"
OF_SINGLE_PAGES = ("answer.css", "answer.js", "circuit.css", "circuit.js")
"""Of pages that are one file and no site (`pictures/offline.py`)."""
_PICTURES = (".avif", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_Path = str | os.PathLike[str]


@boundary("make the page")
def page(
    explainer: _Path,
    folder: _Path,
    *,
    labels: _Path | None = None,
    examples: Sequence[str] = (),
    title: str | None = None,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    resize: str = "crop",
    crop: float = 1.0,
    size: int | None = None,
    tokenizer: _Path | None = None,
    scores: str = "softmax",
    onnxruntime_web: _Path | None = None,
    tokenizers_js: _Path | None = None,
    force: bool = False,
) -> Path:
    """Write the website of one explainer.

    Args:
        explainer: its ONNX file: of pictures (one float32 input `[batch, 1 or 3, height, width]`) or of text (int64
            `input_ids` and, if the model takes them, `attention_mask` and `token_type_ids`, `[batch, sequence]`), which
            takes nothing else at run time but `target`; so none of `composite="reference"`, masks, seeds or weights.
        folder: where to; an earlier site in its place is replaced at once, when the new one is whole.
        labels: names of the classes: one a line, or a JSON list. A language model's are its tokens.
        examples: picture files, or sentences, that the visitor can choose; the page starts with the first.
        title: of the page; by default the explainer's file name.
        mean, std: subtracted from the colours, which are in [0, 1], and what they are divided by: one number, or one
            for each channel.
        resize: "crop" takes the middle of the picture; "stretch" takes all of it, at the cost of its proportions.
        crop: share of the shorter side that is taken, with "crop".
        size: height and width, if the explainer leaves them open.
        tokenizer: the model's `tokenizer.json`, of text; `tokenizer_config.json` beside it is used as well.
        scores: how outputs become probabilities: "softmax", "sigmoid", or "none" if they do not; what the explainer
            knows to be probabilities stays as it is.
        onnxruntime_web, tokenizers_js: folders with the unpacked npm packages; by default npm fetches them once.
        force: replace the folder even if it is no such site.

    Returns:
        The folder.

    Raises:
        FormatError: the file is no explainer.
        InputError: a page cannot show this explainer, or an argument does not fit it.
        LrpError: npm is not there, or fails.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    score = one_of(scores, "softmax", "sigmoid", "none")
    source, final = Path(explainer), Path(os.path.abspath(folder))
    with OnnxExplainer(source) as opened:
        about, inputs = opened.about, opened.inputs
    external, taken = declared(source)
    source = Path(os.path.realpath(source))  # its weights lie beside it
    model = [_file(source.parent, path) for path in (source.name, *external)]
    copies = {part["file"]: source.parent / part["path"] for part in model}
    site: dict[str, Any] = {
        "generator": _MARK,
        "title": title or source.name.split(".")[0],
        "model": {**model[0], "external": model[1:]},
        **explanation(about, inputs, taken - {spec.name for spec in inputs}, source.name),
        "labels": None if labels is None else read_labels(Path(labels), about.classes),
        "scores": score if about.score == "logit" else "none",
    }
    image = main_input(inputs).dtype == "float32"
    if image:
        site |= {"kind": "image", "input": image_input(inputs, size)}
        site["preprocessing"] = preprocessing(site["input"]["channels"], mean, std, resize, crop)
        site["examples"], more = _pictures(examples)
    else:
        site |= {"kind": "text", "input": text_input(inputs), "examples": [{"text": text} for text in examples]}
        site["tokenizer"], more = read_tokenizer(tokenizer, site["input"])
    copies |= more
    named = (labels, onnxruntime_web, tokenizers_js)
    given = [*copies.values(), *(Path(path) for path in named if path is not None)]
    _check_folder(final, given, force)
    with atomic_folder(final) as made:
        _write_page(made, site)
        copy_package(ONNXRUNTIME_WEB, made / "vendor" / "onnxruntime-web", onnxruntime_web)
        if not image:
            copy_package(TOKENIZERS, made / "vendor" / "tokenizers", tokenizers_js)
        for name, path in copies.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, made / name)
    return Path(folder)


def serve(folder: _Path, port: int = 8000) -> None:
    """Hand out the files of `folder` to this machine until interrupted; port 0 takes any free one.

    Raises:
        OSError: the port is taken.
    """
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server, suppress(KeyboardInterrupt):
        print(f"serving {folder} at http://localhost:{server.server_port}/ until Ctrl+C", file=sys.stderr)
        server.serve_forever()


def _file(folder: Path, path: str) -> dict[str, Any]:
    """A part of the model as the page must know it.

    Its place in the site is named after its content, whatever the model calls it: browsers never take an older one for
    it, and nothing outside that place is written.
    """
    ending = "onnx" if ends_in(path, ONNX) else "data"
    return {
        "path": path,
        "file": f"model/{file_digest(folder / path)[:16]}.{ending}",
        "bytes": (folder / path).stat().st_size,
    }


def _pictures(paths: Sequence[str]) -> tuple[list[dict[str, str]], dict[str, Path]]:
    """What the page must know about its examples, and their files by the place that they get."""
    known, copies = [], {}
    for number, picture in enumerate(map(Path, paths), 1):
        if picture.suffix.lower() not in _PICTURES:
            raise InputError(
                f"The example {picture} is none of the pictures that browsers show: {', '.join(_PICTURES)}."
            )
        if not picture.is_file():
            raise FileNotFoundError(f"There is no file {picture}.")
        file = f"examples/{number}{picture.suffix.lower()}"
        known.append({"file": file, "name": picture.stem})
        copies[file] = picture
    return known, copies


def _check_folder(final: Path, given: Sequence[Path], force: bool) -> None:
    if not final.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {final.name}: there is no folder {final.parent}.")
    if not final.exists():
        return
    inside = [path for path in given if path.resolve().is_relative_to(final.resolve())]
    if inside:
        raise InputError(
            f"Cannot replace the folder {final.name}: {inside[0].name}, of which the page is made, is in it."
        )
    if not final.is_dir():
        raise NotADirectoryError(f"Cannot write {final.name}: it is no folder.")
    if not (force or _is_site(final) or not any(final.iterdir())):
        raise InputError(
            f"The folder {final.name} is no site of lrp_compiler: choose another, or replace it by --force."
        )


def _is_site(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "site.json").read_text(encoding="utf-8"))["generator"] == _MARK)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_page(made: Path, site: dict[str, Any]) -> None:
    for file in files("lrp_compiler").joinpath("web").iterdir():
        if file.is_file() and file.name not in OF_SINGLE_PAGES:
            (made / file.name).write_bytes(file.read_bytes())
    index = made / "index.html"
    text = index.read_text(encoding="utf-8").replace("{{title}}", escape(site["title"]))
    index.write_text(text, encoding="utf-8")
    (made / "site.json").write_text(json.dumps(site, ensure_ascii=False, allow_nan=False), encoding="utf-8")
