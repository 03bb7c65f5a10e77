import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar.data.splits import (
    Split,
    epoch_batches,
    hold_out,
    load_classes,
    load_split,
    load_statistics,
    save_classes,
    save_split,
)
from cifar.system.process import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


def test_a_split_reads_back_from_the_files_of_the_contract(tmp_path):
    save_split("train", Split(IMAGES, LABELS), tmp_path)
    images, labels = load_split("train", tmp_path)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(np.load(tmp_path / "train_images.npy"), IMAGES)
    np.testing.assert_array_equal(labels, np.load(tmp_path / "train_labels.npy"))
    assert labels.tolist() == LABELS.tolist()


def test_taking_images_takes_their_labels():
    taken = Split(IMAGES, LABELS).take(np.array([7, 3]))
    np.testing.assert_array_equal(taken.images, [IMAGES[7], IMAGES[3]])
    assert taken.labels.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (IMAGES, LABELS[:-1], "labels.npy holds uint8 19, expected uint8 20"),
        (IMAGES, LABELS.astype(int), "labels.npy holds int64 20, expected uint8 20"),
        (IMAGES[:, :28], LABELS, "images.npy holds uint8 20 x 28 x 32 x 3, expected uint8 N x 32 x 32 x 3"),
        (IMAGES[:0], LABELS[:0], "images.npy holds no image"),
        (IMAGES, LABELS + np.uint8(1), "labels.npy holds label 10, expected 0 to 9"),
    ],
)
def test_a_split_that_breaks_the_contract_is_one_line(tmp_path, images, labels, told):
    save_split("test", Split(images, labels), tmp_path)
    with pytest.raises(InputError, match=told):
        load_split("test", tmp_path)


def test_classes_are_lines_in_the_order_of_the_labels(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    save_classes(names, tmp_path)
    assert (tmp_path / "classes.txt").read_text().splitlines() == names
    assert load_classes(tmp_path) == names


@pytest.mark.parametrize("text", ["", "cat\n" * 10, "a\nb\nc\n"])
def test_other_than_ten_classes_are_one_line(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match="different names, expected ten"):
        load_classes(tmp_path)


def test_missing_files_are_one_line(tmp_path):
    with pytest.raises(InputError, match="classes.txt is missing"):
        load_classes(tmp_path)
    with pytest.raises(InputError, match="train_images.npy is missing"):
        load_split("train", tmp_path)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_held_out_images_are_disjoint_stratified_and_as_many_as_asked(data):
    labels = np.array(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=300)), dtype=np.uint8)
    val_size = data.draw(st.integers(0, len(labels) - 1))
    train, val = hold_out(labels, val_size, seed=data.draw(st.integers(0, 2**32 - 1)))
    assert len(val) == val_size
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    for k in range(10):
        share = val_size * (labels == k).sum() / len(labels)
        assert abs((labels[val] == k).sum() - share) < 1


def test_held_out_images_depend_on_the_seed_alone():
    labels = np.repeat(np.arange(10, dtype=np.uint8), 100)
    (_, first), (_, again), (_, other) = (hold_out(labels, 100, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert np.bincount(labels[first]).tolist() == [10] * 10


@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (12, 4), (5, 9), (1, 1)])
def test_an_epoch_shows_every_image_once(count, batch_size):
    batches = epoch_batches(count, batch_size, seed=0, epoch=3)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size} and 1 <= len(batches[-1]) <= batch_size


def test_the_order_differs_between_epochs_and_seeds_and_nothing_else():
    def order(seed, epoch):
        return np.concatenate(epoch_batches(1000, 64, seed, epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_statistics_read_back_as_red_green_blue(tmp_path):
    values = {"mean": {"blue": 0.3, "red": 0.1, "green": 0.2}, "std": {"red": 0.4, "green": 0.5, "blue": 0.6}}
    (tmp_path / "stats.json").write_text(json.dumps(values))
    assert load_statistics(tmp_path / "stats.json") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mean": 0.5, "std": 0.2},
        {"mean": dict.fromkeys(("red", "green"), 0.5), "std": dict.fromkeys(("red", "green", "blue"), 0.2)},
        {"mean": dict.fromkeys(("red", "green", "blue"), 125), "std": dict.fromkeys(("red", "green", "blue"), 0.2)},
        {"mean": dict.fromkeys(("red", "green", "blue"), 0.5), "std": dict.fromkeys(("red", "green", "blue"), 0)},
    ],
)
def test_statistics_that_cannot_be_used_are_one_line(tmp_path, values):
    (tmp_path / "stats.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"stats.json is damaged, (mean|std).*; delete it and run `make repro`"):
        load_statistics(tmp_path / "stats.json")
