"""The stats stage, on a few noise images: what it writes beside the numbers that test_statistics checks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pixels import place_of, read_png
from ruamel.yaml import YAML

from cifar.config.params import read_yaml
from cifar.data.splits import Split, hold_out, save_classes, save_split
from cifar.system.errors import InputError
from stages import stats

ROOT = Path(__file__).parents[1]


@pytest.fixture
def train(tmp_path, monkeypatch) -> Split:
    """The training images of a folder, the current one, in which images are always flipped and 20 are held out."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    labels = (np.arange(60) % 10).astype(np.uint8)
    train = Split(random.integers(0, 256, (60, 32, 32, 3), np.uint8), labels)
    save_split("train", train)
    save_split("test", train.take(np.arange(10)))
    save_classes([f"class{k}" for k in range(10)])
    values = read_yaml(ROOT / "params.yaml") | {"dataset": "shapes", "val_size": 20, "batch_size": 8}
    values["augment"] = [{"name": "HorizontalFlip", "p": 1.0}]
    YAML().dump(values | {"shapes": {"train": 60, "test": 10}}, Path("params.yaml"))
    return train


def test_the_first_batch_lies_beside_what_augmentation_makes_of_it(train):
    stats.main()
    pixels = read_png("plots/stats/augmented.png")
    shown = []
    for index in hold_out(train.labels, 20, seed=read_yaml("params.yaml")["seed"])[0]:
        try:
            row, column = place_of(train.images[index], pixels)
        except AssertionError:
            continue
        shown.append(index)
        assert place_of(train.images[index][:, ::-1], pixels) == (row, column + 4 * 33)  # a white column between
    assert len(shown) == 8  # one batch, all of it trained on


@pytest.mark.parametrize("wrong", [{"augment": [{"name": "Flipp"}]}, {"val_size": 55}])
def test_wrong_params_leave_no_file(train, wrong):
    YAML().dump(read_yaml("params.yaml") | wrong, Path("params.yaml"))
    with pytest.raises(InputError):
        stats.main()
    assert not Path("metrics").exists() and not Path("plots").exists()


def test_the_stage_writes_what_it_promises(train):
    stats.main()
    found = json.loads(Path("metrics/stats.json").read_text())
    assert (found["images"], found["test_images"]) == (60, 10)
    assert list(found["mean"]) == list(found["std"]) == ["red", "green", "blue"]
    assert list(found["mean"].values()) == pytest.approx(train.images.mean((0, 1, 2)) / 255)  # of all, held out or not
    assert list(found["std"].values()) == pytest.approx(train.images.std((0, 1, 2)) / 255)
    duplicates = json.loads(Path("metrics/duplicates.json").read_text())  # the test images are the first to train on
    assert duplicates == {"duplicate_pairs": 10, "test_duplicates": 10, "exact_duplicates": 10}
    table = pd.read_csv("data/duplicates.csv")
    assert table.test_index.tolist() == table.train_index.tolist() == list(range(10))
    written = {path.name for path in Path("plots/stats").iterdir()}
    assert written == {"class_counts.csv", "samples.png", "augmented.png", "duplicates.png"}
