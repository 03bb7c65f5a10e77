"""Damaged files, at random: each loader accepts what it reads or explains in one line what is wrong with it.

FUZZ=20000 tries as many damaged files on each loader; the suite tries 200. Every case can be repeated by its number.
Damaged answers of servers are in test_mirrors.py.
"""

import io
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import FUZZ, damaged
from specs import AIRNET, CIFAR, GREY
from tiny import ARCHIVE, FILES, TINY, assert_is_tiny, pack, publish, put

from cifar.config.params import check_params, read_section, read_yaml
from cifar.data.archive import find_dataset, load_archive
from cifar.data.download import Unusable
from cifar.data.splits import Split, load_classes, load_split, load_statistics, save_classes, save_split
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
SECONDS = 10  # of processor time for one file
HEADER = 128  # bytes of a .npy file before its numbers
LABELS = np.arange(6, dtype=np.uint8)


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
        for case, new in enumerate(damaged(np.random.default_rng([*name.encode()]), [content], FUZZ)):
            path.write_bytes(new)
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
    print(f"{name}: {refused} of {FUZZ} damaged files refused")
    assert refused > FUZZ / 2


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole data set of 20 images."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.uint8) % 10
    save_split("train", Split(images, labels), tmp_path)
    save_classes(list("abcdefghij"), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "start"), [("train_images.npy", HEADER), ("train_labels.npy", HEADER), ("train.sha256", 0)]
)
def test_a_damaged_split_is_one_line_that_names_the_file(folder, name, start):
    whole = (folder / name).read_bytes()
    for number, content in enumerate(damaged(np.random.default_rng(1), [whole[start:]], FUZZ)):
        (folder / name).write_bytes(whole[:start] + content)
        try:
            split = load_split("train", folder)
        except InputError as error:
            assert str(folder) in str(error) and str(error).isprintable(), number
        else:  # the damage is outside the lines that count
            assert name == "train.sha256" and split.labels.tolist() == [*range(10)] * 2, number


def test_damaged_batches_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.setattr("cifar.data.archive.pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
    put(tmp_path, FILES)
    for number, content in enumerate(damaged(np.random.default_rng(3), [FILES["test_batch"]], FUZZ)):
        (tmp_path / TINY.folder / "test_batch").write_bytes(content)
        with pytest.raises(InputError, match="test_batch has [0-9]+ bytes with md5") as caught:
            find_dataset(tmp_path, None, [], published=TINY)
        assert str(caught.value).isprintable(), number


def test_a_damaged_archive_is_unusable_even_where_its_md5_is_right(tmp_path):
    path = tmp_path / TINY.archive
    small = {name: content[:3000] for name, content in FILES.items()}
    for number, content in enumerate(damaged(np.random.default_rng(4), [ARCHIVE, pack(small)], FUZZ)):
        path.write_bytes(content)
        try:
            found = load_archive(path, publish(FILES, content))
        except Unusable as error:
            assert "\n" not in str(error), number
        else:
            assert_is_tiny(found)
