"""Pictures from anywhere, classified: what `python -m cifar predict` prints and draws."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cifar.config.schema import GradCAM
from cifar.data.pictures import find_pictures, read_picture, without_warnings
from cifar.nn.inference import predict
from cifar.nn.saved import FOLDER, Model, load_model
from cifar.results.scores import log_softmax
from cifar.system.device import pick_device, prepare
from cifar.system.errors import InputError, next_move, one_line, printable
from cifar.system.progress import progress

CHUNK = 100  # pictures that are read before the network sees them
DRAWN = 100  # pictures in a sheet of heatmaps, at most
COLUMNS = 5


class Answer(NamedTuple):
    """What the network says of a picture: the probabilities float64 (C,); or why the picture cannot be read.

    `image` uint8 (S, S, 3) is what the network sees of it.
    """

    path: Path
    image: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    problem: str = ""


def print_answers(paths: Iterable[Path], folder: Path, top: int, *, heatmap: Path | None, as_json: bool) -> None:
    """Print the `top` classes of each picture in `paths`, or in the folders among them, by the model in `folder`.

    A picture that cannot be read is a line on stderr, and the others follow. A sheet of heatmaps is written to
    `heatmap`. Raises InputError if there is no model, if `heatmap` cannot be written, or, in the end, if a picture
    could not be read.
    """
    prepare(deterministic=True)
    model = _load(folder)
    files = [file for path in paths for file in (_files_in(path) if os.path.isdir(path) else [path])]
    if heatmap:
        _check_writable(heatmap, files)
    found, drawn, unread = [], [], 0
    width = max(len(printable(str(file), 200)) for file in files)
    for answer in progress(answers(model, files), len(files), "predict", "pictures", delay=1):
        if answer.problem:
            unread += 1
            tqdm.write(f"error: {answer.problem}", file=sys.stderr)
        elif len(drawn) < DRAWN:
            drawn.append(answer)
        if as_json:
            found.append(_as_values(answer, model.classes, top))
        elif not answer.problem:
            tqdm.write(_as_line(answer, model.classes, top, width=width), file=sys.stdout)
    if as_json:
        print(json.dumps(found, indent=2))
    if heatmap and drawn:
        _draw(heatmap, model, drawn)
        print(f"written: {printable(str(heatmap), 200)}", file=sys.stderr)
    if unread:
        raise InputError(f"{unread} of {len(files)} pictures could not be read")


def answers(model: Model, files: list[Path]) -> Iterator[Answer]:
    """What the network says of each file, in their order."""
    network = model.network.to(pick_device())
    for start in range(0, len(files), CHUNK):
        with without_warnings():
            chunk = [_read(file, model.image_size) for file in files[start : start + CHUNK]]
        images = [answer.image for answer in chunk if not answer.problem]
        if images:
            logits = predict(network, np.stack(images), model.statistics)
            rows = iter(np.exp(log_softmax(logits)))
        for answer in chunk:
            yield answer if answer.problem else answer._replace(probabilities=next(rows))


def _load(folder: Path) -> Model:
    if not (folder / "model.json").exists():
        raise InputError(f"{folder} holds no trained network yet; `dvc repro train` makes one in models")
    if folder.resolve() == FOLDER.resolve():
        return load_model(folder)
    with next_move(f"make or copy {folder} again, or name another folder"):
        return load_model(folder)


def _check_writable(path: Path, pictures: Sequence[Path]) -> None:
    """Before the work: raise InputError unless `path` can be written as a picture, and is none of `pictures`."""
    if path.suffix.lower() != ".png":
        raise InputError(f"--heatmap {path} must be the name of a .png file")
    if path.is_dir():
        raise InputError(f"--heatmap {path} is a folder; name another file")
    if os.path.realpath(path) in map(os.path.realpath, pictures):
        raise InputError(f"--heatmap {path} is among the pictures to classify; name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--heatmap {path}: there is no folder {path.parent} that can be written; name another")


def _files_in(folder: Path) -> list[Path]:
    """The pictures in it, or the folder itself, for which `_read` then gives an error."""
    return find_pictures(folder) or [folder]


def _read(file: Path, size: int) -> Answer:
    try:
        if file.is_dir():
            raise InputError(f"{file} is a folder without pictures; name another")
        return Answer(file, read_picture(file, size))
    except (InputError, OSError) as error:
        return Answer(file, problem=one_line(error))


def _best(answer: Answer, top: int) -> np.ndarray:
    """The classes with the largest probabilities, the first of equal ones first."""
    return np.argsort(-answer.probabilities, kind="stable")[:top]


def _as_line(answer: Answer, classes: list[str], top: int, *, width: int) -> str:
    longest = max(len(printable(name)) for name in classes)
    named = [f"{printable(classes[k]):{longest}} {answer.probabilities[k]:6.1%}" for k in _best(answer, top)]
    return f"{printable(str(answer.path), 200):{width}}  {'  '.join(named)}"


def _as_values(answer: Answer, classes: list[str], top: int) -> dict[str, Any]:
    if answer.problem:
        return {"file": str(answer.path), "error": answer.problem}
    named = [{"class": classes[k], "probability": round(answer.probabilities[k], 6)} for k in _best(answer, top)]
    return {"file": str(answer.path), "classes": named}


def _draw(path: Path, model: Model, drawn: list[Answer]) -> None:
    from cifar.results.gradcam import heatmap_strips, legend  # these import matplotlib, which takes a second
    from cifar.results.sheets import draw_sheet

    network = model.network.cpu()
    *_, layer = (name for name, _ in network.named_children() if re.fullmatch("layer[0-9]", name))
    settings = GradCAM(method="gradcam", target="predicted", layers=[layer])
    images = np.stack([answer.image for answer in drawn])
    best = np.array([_best(answer, 1)[0] for answer in drawn])
    strips = heatmap_strips(model._replace(network=network), images, best, settings)
    captions = [
        f"{answer.path.name}\n{model.classes[k]} {answer.probabilities[k]:.1%}"
        for answer, k in zip(drawn, best, strict=True)
    ]
    title = f"{len(drawn)} picture{'s' * (len(drawn) > 1)}\nNext to each: {legend(settings)}"
    draw_sheet(path, strips, COLUMNS, title, captions=captions, caption_colours=["#555555", "black"])
