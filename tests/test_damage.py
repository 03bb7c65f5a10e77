"""Damaged files of the data set: any loader gives the whole content or one clear line, never a traceback.

FUZZ=20000 tries as many damaged inputs on each loader; the suite tries 200. Damaged answers of servers are in
test_mirrors.py.
"""

from pathlib import Path

import numpy as np
import pytest
from damage import FUZZ, damaged
from tiny import ARCHIVE, FILES, TINY, assert_is_tiny, pack, publish, put

from cifar.data.archive import find_dataset, load_archive
from cifar.data.download import Unusable
from cifar.data.splits import Split, load_classes, load_split, save_classes, save_split
from cifar.system.errors import InputError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HEADER = 128  # bytes of a .npy file before its numbers


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole data set of 20 images."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20, dtype=np.uint8) % 10
    save_split("train", Split(images, labels), tmp_path)
    save_classes(CLASSES, tmp_path)
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


def test_damaged_classes_are_one_line_or_names(folder):
    whole = (folder / "classes.txt").read_bytes()
    for number, content in enumerate(damaged(np.random.default_rng(2), [whole], FUZZ)):
        (folder / "classes.txt").write_bytes(content)
        try:
            names = load_classes(folder)
        except InputError as error:
            assert "classes.txt" in str(error) and str(error).isprintable(), number
        else:
            assert 2 <= len(set(names)) == len(names) and all(name.isprintable() and name.strip() for name in names), (
                number
            )


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
