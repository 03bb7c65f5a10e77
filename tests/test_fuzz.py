"""Damaged files, at random: each loader accepts what it reads or explains in one line what is wrong with it.

FUZZ=20000 sets the number of damaged files for all loaders together; every case can be repeated by its number.
"""

import io
import json
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from specs import AIRNET, CIFAR, GREY

from cifar.config.params import check_params, read_section, read_yaml
from cifar.data.splits import load_classes, load_statistics, save_classes
from cifar.nn.networks import build_network
from cifar.nn.saved import Model, load_model, save_model
from cifar.results.predictions import (
    Predictions,
    find_mistakes,
    load_mistakes,
    load_predictions,
    save_mistakes,
    save_predictions,
)
from cifar.system.errors import LONGEST, InputError, one_line
from cifar.system.files import read_array, sha256, write_array, write_json
from cifar.training.checkpoint import parse_checkpoint
from cifar.training.range_test import Suggestion

ROOT = Path(__file__).parents[1]
CASES = int(os.environ.get("FUZZ", 400))
SECONDS = 10  # of processor time for one file
LABELS = np.arange(6, dtype=np.uint8)
TOKENS = [
    *(b"&a ", b"*a", b"<<: *a\n", b"!!bool maybe", b"!!int x", b"!!float x", b"!!timestamp x", b"!!binary x"),
    *(b"!!set ", b"!!omap ", b"!!pairs ", b"!!null x", b"!x ", b"? ", b"- ", b": ", b"{", b"}", b"[", b"]", b"'", b'"'),
    *(b"|\n", b">\n", b"#", b"%YAML 9.9\n", b"---\n", b"...\n", b"\t", b"\0", b"\x1b[31m", b"\xff", b"\xef\xbb\xbf"),
    *(b"~", b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 9000, b"9" * 5000, b"1" * 400, b"0o7", b"2026-11-22"),
    *(b"12:30:45", b'"\\e[31m"'),
]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` with up to four faults: a bit flipped, a piece cut or repeated, a token put in, the end cut off."""
    for _ in range(draw.randint(1, 4)):
        a, b = sorted(draw.choices(range(len(content) + 1), k=2))
        b = min(b, a + draw.choice([1, 2, 8, 60]))
        match draw.randrange(7):
            case 0 | 1 if content:
                place = draw.randrange(min(len(content), draw.choice([200, len(content)])))
                flipped = content[place] ^ (1 << draw.randrange(8))
                content = content[:place] + bytes([flipped]) + content[place + 1 :]
            case 2:
                content = content[:a] + content[b:]
            case 3:
                content = content[:a] + content[a:b] * draw.choice([2, 3, 50]) + content[b:]
            case 4:
                content = content[:a] + draw.choice(TOKENS) + content[b:]
            case 5:
                content = content[:a]
            case _:
                content = content[:a] + draw.randbytes(draw.choice([1, 4, 30])) + content[b:]
    return content


def whole_params(path: Path) -> Callable[[], object]:
    lines = (ROOT / "recipes/best.yaml").read_text().splitlines()
    path.write_text("".join(f"{line.partition(' #')[0]}\n" for line in lines if not line.startswith("#")))
    return lambda: check_params(read_yaml(path), "params.yaml")


def whole_images(path: Path) -> Callable[[], object]:
    write_array(path, np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3))
    return lambda: read_array(path, "uint8", (None, 8, 8, 3))


def whole_predictions(path: Path) -> Callable[[], object]:
    save_predictions(Predictions(np.eye(6, 10, dtype=np.float32), LABELS, LABELS), path)
    return lambda: load_predictions(LABELS, 10, path)


def whole_mistakes(path: Path) -> Callable[[], object]:
    predictions = Predictions(np.eye(6, 10, dtype=np.float32), LABELS[::-1].copy(), LABELS)
    save_mistakes(predictions, find_mistakes(predictions), list("abcdefghij"), path)
    return lambda: load_mistakes(predictions, path)


def whole_classes(path: Path) -> Callable[[], object]:
    save_classes([f"class {k}" for k in range(10)], path.parent)
    return lambda: load_classes(path.parent)


def whole_statistics(path: Path) -> Callable[[], object]:
    channels = {"red": 0.4914008209, "green": 0.4821589961, "blue": 0.4465308871}
    write_json(path, {"images": 50000, "mean": channels, "std": channels})
    return lambda: load_statistics(path)


def whole_suggestion(path: Path) -> Callable[[], object]:
    write_json(path, {"lr_max": 0.0137, "lr_min": 0.00104, "steps": 60})
    return lambda: read_section(path, Suggestion)


def save_tiny_model(folder: Path) -> None:
    save_model(
        Model(build_network(AIRNET, CIFAR, seed=0), GREY, list("abcdefghij")), AIRNET, {"threads": 1}, folder=folder
    )


def whole_card(path: Path) -> Callable[[], object]:
    save_tiny_model(path.parent)
    return lambda: load_model(path.parent)


def whole_weights(path: Path) -> Callable[[], object]:
    """The card's SHA-256 follows the damaged weights, so that their content is looked at too."""
    save_tiny_model(path.parent)
    card = path.with_name("model.json")
    values = json.loads(card.read_text())

    def load() -> object:
        card.write_text(json.dumps(values | {"sha256": sha256(path)}))
        return load_model(path.parent)

    return load


def whole_checkpoint(path: Path) -> Callable[[], object]:
    """Loading deletes nothing: a damaged checkpoint is renamed, and there is no state."""
    buffer = io.BytesIO()
    state = {"network": {"weight": torch.arange(9.0)}, "history": [{"epoch": 1, "val_accuracy": 0.5}]}
    torch.save({"epoch": 1, "trained_on": [{"epochs": [1, 1], "environment": {}}], "state": state}, buffer)
    path.write_bytes(buffer.getvalue())

    def load() -> None:
        if parse_checkpoint(path.read_bytes()) is None:
            raise InputError("set aside as damaged")

    return load


LOADERS = {
    "params.yaml": whole_params,
    "images.npy": whole_images,
    "predictions.npz": whole_predictions,
    "misclassified.csv": whole_mistakes,
    "classes.txt": whole_classes,
    "stats.json": whole_statistics,
    "lr_find.json": whole_suggestion,
    "model.json": whole_card,
    "model.safetensors": whole_weights,
    "checkpoint.pt": whole_checkpoint,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_read_or_explained_in_one_line(name, tmp_path):
    path = tmp_path / name
    load = LOADERS[name](path)
    load()
    content, refused = path.read_bytes(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in range(CASES // len(LOADERS)):
            path.write_bytes(damaged(content, random.Random(f"{name} {case}")))
            began = time.process_time()
            try:
                load()
            except InputError as error:
                refused += 1
                line = one_line(error)
                assert line.isprintable() and 10 < len(line) <= LONGEST, case
            except Exception as error:
                raise AssertionError(f"case {case}: {error!r}") from error
            assert time.process_time() - began < SECONDS, case
    print(f"{name}: {refused} of {CASES // len(LOADERS)} damaged files refused")
    assert refused > CASES // len(LOADERS) / 2
