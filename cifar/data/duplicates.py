"""Test images that are the same as a training image, or almost: they make a network look better than it is."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cifar.data.splits import Split
from cifar.system.errors import InputError
from cifar.system.files import missing, write_csv

DUPLICATES = Path("data/duplicates.csv")
GRID = 8  # parts of an image's height and of its width
LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in a grey image (ITU-R BT.601)
# Of two images that count as nearly the same, at most so many bits of the hash differ, and so many levels (0 to 255) on
# average the colours of the parts. On CIFAR-10 99.7 % of such pairs have the same label; with higher limits, pairs of
# different images appear.
MOST_BITS = 16  # of 112
MOST_LEVELS = 16
BLOCK = 2**22  # pixels that are looked at, or pairs whose hashes are compared, at a time
COLOURS = 2**16  # pairs whose colours are compared at a time


class Duplicates(NamedTuple):
    """Pairs (P,) of a test image and a training image, by index, the most alike first.

    `bits` int64 is how many of the hash's 112 bits differ. `is_exact` bool says that all pixels are the same.
    """

    test: np.ndarray
    train: np.ndarray
    bits: np.ndarray
    is_exact: np.ndarray


def find_duplicates(train: Split, test: Split) -> Duplicates:
    """All pairs of a test and a training image that are nearly the same, by a difference hash and their colours.

    Their labels do not matter. Images that are mirrored, turned or cut in another way are not found. The hash is that
    of Krawetz, "Kind of Like That" (2013), in both directions: does the brightness rise from one of 8x8 parts to the
    next?
    """
    of_train, of_test = (parts(split.images) for split in (train, test))
    train_hashes, test_hashes = hashes(of_train), hashes(of_test)
    rows, size = [], max(1, BLOCK // len(train_hashes))
    for start in range(0, len(test_hashes), size):
        block = test_hashes[start : start + size]
        bits = sum(np.bitwise_count(block[:, None, k] ^ train_hashes[:, k]).astype(np.uint8) for k in (0, 1))
        of_block, of_all = np.nonzero(bits <= MOST_BITS)
        pairs = np.stack([of_block + start, of_all, bits[of_block, of_all]])
        for some in np.array_split(pairs, -(-pairs.shape[1] // COLOURS), axis=1) if pairs.size else []:
            levels = np.abs(of_test[some[0]] - of_train[some[1]]).mean(axis=(1, 2, 3), dtype=np.float64)
            rows.append(some[:, levels <= MOST_LEVELS])
    test_index, train_index, bits = np.concatenate(rows, axis=1) if rows else np.empty((3, 0), np.int64)
    is_exact = [
        np.array_equal(test.images[i : i + 1], train.images[j : j + 1])
        for i, j in zip(test_index.tolist(), train_index.tolist(), strict=True)
    ]
    found = Duplicates(test_index, train_index, bits, np.array(is_exact, bool))
    order = np.lexsort((train_index, test_index, bits, ~found.is_exact))
    return Duplicates(*(column[order] for column in found))


def parts(images: np.ndarray) -> np.ndarray:
    """The mean colours float32 (N, 8, 8, 3), from 0 to 255, of 8x8 parts of the images uint8 (N, S, S, 3).

    They are quotients of integers, so that no machine rounds them in another way.
    """
    size = images.shape[1]
    starts = np.arange(GRID) * size // GRID
    sides = np.diff([*starts, size])
    areas = (sides[:, None] * sides)[..., None]
    colours, block = [], max(1, BLOCK // size**2)
    for start in range(0, len(images), block):
        pixels = images[start : start + block].astype(np.int32)
        sums = np.add.reduceat(np.add.reduceat(pixels, starts, axis=1), starts, axis=2)
        colours.append((sums / areas).astype(np.float32))
    return np.concatenate(colours)


def hashes(colours: np.ndarray) -> np.ndarray:
    """The hashes of mean colours (N, 8, 8, 3), 112 bits each in uint64 (N, 2)."""
    grey = (colours * (1000 * LUMA)).round().sum(axis=-1)  # whole numbers
    rises = [grey[:, :, 1:] > grey[:, :, :-1], grey[:, 1:] > grey[:, :-1]]
    bits = np.concatenate([rise.reshape(len(grey), -1) for rise in rises], axis=1)
    return np.packbits(np.pad(bits, ((0, 0), (0, 16))), axis=1).view(np.uint64)


def counts(duplicates: Duplicates) -> dict[str, int]:
    """How many pairs there are, how many test images are in them, and how many of these are exactly the same."""
    return {
        "duplicate_pairs": len(duplicates.test),
        "test_duplicates": len(np.unique(duplicates.test)),
        "exact_duplicates": len(np.unique(duplicates.test[duplicates.is_exact])),
    }


def save_duplicates(
    duplicates: Duplicates, labels: tuple[np.ndarray, np.ndarray], classes: list[str], path: Path = DUPLICATES
) -> None:
    """Write a CSV: columns test_index, train_index, bits, exact (0 or 1), test_label, train_label (names of classes).

    `labels` are those of all training images and of all test images.
    """
    names = np.array(classes)
    columns = {
        "test_index": duplicates.test,
        "train_index": duplicates.train,
        "bits": duplicates.bits,
        "exact": duplicates.is_exact.astype(int),
        "test_label": names[labels[1][duplicates.test]],
        "train_label": names[labels[0][duplicates.train]],
    }
    write_csv(path, pd.DataFrame(columns))


def load_unique(count: int, path: Path = DUPLICATES) -> np.ndarray:
    """The test images bool (count,) that are in no pair; raises InputError if the CSV is missing or damaged."""
    is_unique = np.ones(count, bool)
    try:
        index = pd.read_csv(path, dtype=str, keep_default_na=False)["test_index"]
        numbers = np.array([int(text) for text in index], dtype=np.int64)
        if (numbers < 0).any():
            raise IndexError
        is_unique[numbers] = False
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, KeyError, IndexError, OverflowError):
        raise InputError(f"{path} is damaged; delete it and run `make repro`") from None
    return is_unique
