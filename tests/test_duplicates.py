"""Test images that are nearly among the training images are found, and others are not."""

import numpy as np
import pandas as pd
import pytest

from cifar.data.duplicates import counts, find_duplicates, hashes, load_unique, parts, save_duplicates
from cifar.data.shapes import draw_split
from cifar.data.splits import Split
from cifar.system.errors import InputError

RANDOM = np.random.default_rng(0)


def landscapes(count: int, size: int) -> np.ndarray:
    """Images uint8 (count, size, size, 3) of blurred noise, from bright to dark."""
    coarse = RANDOM.uniform(20, 235, (count, 5, 5, 3))
    position = np.linspace(0, 3.999, size)
    low, share = position.astype(int), position % 1
    rows = coarse[:, low] * (1 - share)[:, None, None] + coarse[:, low + 1] * share[:, None, None]
    columns = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, low + 1] * share[:, None]
    return columns.astype(np.uint8)


@pytest.mark.parametrize("size", [16, 32, 50, 100])
def test_copies_and_near_copies_are_found_and_nothing_else(size):
    train, others = landscapes(300, size), landscapes(60, size)
    near = {
        "the same": train[7],
        "brighter": (train[50].astype(int) + 8).clip(0, 255).astype(np.uint8),
        "noisy": (train[100] + RANDOM.normal(0, 4, train[100].shape)).clip(0, 255).astype(np.uint8),
        "shifted by a pixel": np.roll(train[150], 1, axis=1) if size > 16 else train[150],
    }
    test = np.concatenate([others, np.stack(list(near.values()))])
    labels = np.zeros(300, np.uint8), np.zeros(64, np.uint8)
    found = find_duplicates(Split(train, labels[0]), Split(test, labels[1]))
    assert sorted(zip(found.test.tolist(), found.train.tolist(), strict=True)) == [
        (60, 7),
        (61, 50),
        (62, 100),
        (63, 150),
    ]
    assert found.test[0] == 60 and found.bits[0] == 0
    assert found.is_exact.tolist() == [
        (test[i] == train[j]).all() for i, j in zip(found.test, found.train, strict=True)
    ]


def test_the_drawn_shapes_have_no_exact_duplicates_and_plain_images_of_other_colours_are_none():
    train, test = (draw_split(count, 0, name)[0] for count, name in ((500, "train"), (200, "test")))
    assert not find_duplicates(train, test).is_exact.any()
    plain = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 100, 200)])
    found = find_duplicates(Split(plain[:2], np.zeros(2, np.uint8)), Split(plain[1:], np.zeros(2, np.uint8)))
    assert found.test.tolist() == [0] and found.train.tolist() == [1] and found.is_exact.all()


def test_parts_are_the_means_of_their_pixels():
    images = RANDOM.integers(0, 256, (3, 20, 20, 3), np.uint8)  # parts of 2 and of 3 pixels
    found = parts(images)
    assert found.shape == (3, 8, 8, 3)
    assert found[1, 0, 1] == pytest.approx(images[1, 0:2, 2:5].mean((0, 1)), abs=1e-4)
    assert found[2, 7, 7] == pytest.approx(images[2, 17:20, 17:20].mean((0, 1)), abs=1e-4)


def test_the_hash_says_where_the_brightness_rises():
    colours = np.zeros((1, 8, 8, 3), np.float32)
    colours[0, :, 3] = 9  # rises from the third column to the fourth only, in each of eight rows
    assert np.bitwise_count(hashes(colours)).sum() == 8
    colours[0, 5, 3] = 10  # and in one column to the sixth row
    assert np.bitwise_count(hashes(colours)).sum() == 9


def test_the_table_says_which_images_are_unique(tmp_path):
    train, test = landscapes(5, 32), landscapes(4, 32)
    train[4] = train[2]
    test[1], test[3] = train[2], train[0]
    labels = np.array([0, 1, 0, 1, 1], np.uint8), np.array([1, 0, 1, 0], np.uint8)
    found = find_duplicates(Split(train, labels[0]), Split(test, labels[1]))
    assert counts(found) == {"duplicate_pairs": 3, "test_duplicates": 2, "exact_duplicates": 2}
    save_duplicates(found, labels, ["cat", "NA"], tmp_path / "duplicates.csv")
    table = pd.read_csv(tmp_path / "duplicates.csv", keep_default_na=False)
    assert list(table) == ["test_index", "train_index", "bits", "exact", "test_label", "train_label"]
    assert table.to_numpy().tolist() == [
        [1, 2, 0, 1, "cat", "cat"], [1, 4, 0, 1, "cat", "NA"], [3, 0, 0, 1, "cat", "cat"]
    ]  # fmt: skip
    assert load_unique(4, tmp_path / "duplicates.csv").tolist() == [True, False, True, False]


@pytest.mark.parametrize("text", ["", "index\n1\n", "test_index\n4\n", "test_index\n-1\n", "test_index\nx\n"])
def test_a_damaged_table_is_one_line(tmp_path, text):
    (tmp_path / "duplicates.csv").write_text(text)
    with pytest.raises(InputError, match="duplicates.csv is damaged; delete it"):
        load_unique(4, tmp_path / "duplicates.csv")
    (tmp_path / "duplicates.csv").unlink()
    with pytest.raises(InputError, match="duplicates.csv is missing"):
        load_unique(4, tmp_path / "duplicates.csv")
