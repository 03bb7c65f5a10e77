import json
from pathlib import Path

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
from cifar.system.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10
CLASSES = [f"class {k}" for k in range(10)]


def save(folder: Path, name: str, split: Split, classes: list[str] = CLASSES) -> None:
    save_split(name, split, folder)
    save_classes(classes, folder)


def test_a_split_reads_back_from_the_files_of_the_contract(tmp_path):
    save(tmp_path, "train", Split(IMAGES, LABELS))
    images, labels = load_split("train", tmp_path)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(np.load(tmp_path / "train_images.npy"), IMAGES)
    np.testing.assert_array_equal(labels, np.load(tmp_path / "train_labels.npy"))
    assert labels.tolist() == LABELS.tolist()


def test_taking_images_takes_their_labels():
    taken = Split(IMAGES, LABELS).take(np.array([7, 3, 12]))
    assert len(taken.images) == 3 and taken.images.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(taken.images[:2], [IMAGES[7], IMAGES[3]])
    assert taken.labels.tolist() == [7, 3, 2]
    again = taken.take(np.array([2, 0]))
    np.testing.assert_array_equal(again.images[np.array([1, 0])], [IMAGES[7], IMAGES[12]])
    assert again.labels.tolist() == [2, 7]


def test_a_split_is_not_read_before_its_images_are_asked_for(tmp_path):
    """The pages of a mapped file count as memory of the file's, not as anonymous memory."""
    images = np.zeros((2000, 128, 128, 3), np.uint8)  # 98 MB
    save(tmp_path, "train", Split(images, np.arange(2000, dtype=np.uint8) % 10))
    del images
    before = anonymous_kilobytes()
    split = load_split("train", tmp_path)
    train = split.take(np.arange(1, 2000))
    assert sum(int(train.images[start : start + 100].sum()) for start in range(0, 2000, 100)) == 0
    assert anonymous_kilobytes() - before < 20_000


def anonymous_kilobytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("RssAnon:")]
    return int(line.split()[1])


def test_what_is_written_into_images_does_not_reach_their_file(tmp_path):
    save(tmp_path, "train", Split(IMAGES, LABELS))
    split = load_split("train", tmp_path)
    split.images[:] = 0
    np.testing.assert_array_equal(load_split("train", tmp_path).images, IMAGES)


def test_labels_of_more_than_256_classes_have_16_bits(tmp_path):
    labels, names = np.array([0, 256, 299] * 2, np.uint16), [f"class {k}" for k in range(300)]
    save(tmp_path, "train", Split(IMAGES[:6], labels), names)
    assert load_split("train", tmp_path).labels.tolist() == labels.tolist()
    save(tmp_path, "train", Split(IMAGES[:6], labels), names[:256])
    with pytest.raises(InputError, match="labels.npy holds uint16 6, expected uint8 6"):
        load_split("train", tmp_path)


def test_classes_are_lines_in_the_order_of_the_labels(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    save_classes(names, tmp_path)
    assert (tmp_path / "classes.txt").read_text().splitlines() == names
    assert load_classes(tmp_path) == names


@pytest.mark.parametrize("text", ["", "cat\n" * 10, "cat\n", "".join(f"{k}\n" for k in range(1001))])
def test_other_than_2_to_1000_different_classes_are_one_line(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match="expected 2 to 1,000 different names"):
        load_classes(tmp_path)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_held_out_images_are_disjoint_stratified_and_as_many_as_asked(data):
    classes = data.draw(st.integers(2, 20))
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=300)), dtype=np.uint8)
    val_size = data.draw(st.integers(0, len(labels) - 1))
    train, val = hold_out(labels, val_size, seed=data.draw(st.integers(0, 2**32 - 1)))
    assert len(val) == val_size
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    for k in range(classes):
        share = val_size * (labels == k).sum() / len(labels)
        assert abs((labels[val] == k).sum() - share) < 1


def test_held_out_images_depend_on_the_seed_alone():
    labels = np.repeat(np.arange(10, dtype=np.uint8), 100)
    (_, first), (_, again), (_, other) = (hold_out(labels, 100, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert np.bincount(labels[first]).tolist() == [10] * 10


def test_images_must_be_left_to_train_on():
    with pytest.raises(InputError, match="val_size is 20, it must be below the 20 training images"):
        hold_out(LABELS, 20, seed=0)


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
