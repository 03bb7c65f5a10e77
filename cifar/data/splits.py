"""The data set as arrays on disk, its split into training and validation images, and the order of the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifar.config.params import read_section
from cifar.config.schema import CLASS_COUNTS, SIZES, Mean, Result, Std
from cifar.system.errors import InputError, printable
from cifar.system.files import (
    check_checksums,
    map_array,
    missing,
    read_array,
    write_array,
    write_blocks,
    write_checksums,
    write_text,
)

if TYPE_CHECKING:
    from torch import Tensor  # a second to import, and not every stage computes with it

FOLDER = Path("data/dataset")
BLOCK = 2**24  # bytes of images that are written at a time


class Rows:
    """Some of the images of an array (N, S, S, 3), by `index` (M,): read when they are asked for, and not before.

    `rows[key]` copies the images that `key`, a slice or an array, picks.
    """

    def __init__(self, images: np.ndarray, index: np.ndarray):
        self.images, self.index = images, index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.index), *self.images.shape[1:]

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self.images[self.index[key]]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Split(NamedTuple):
    """Images uint8 (N, S, S, 3) in RGB and labels (N,), uint8 up to 256 classes and uint16 above.

    The images may be larger than the memory: they are mapped from their file, and a part of them is Rows.
    """

    images: np.ndarray | Rows
    labels: np.ndarray

    def take(self, index: np.ndarray) -> Split:
        """The images and labels with these indices; no image is copied."""
        if isinstance(self.images, Rows):
            return Split(Rows(self.images.images, self.images.index[index]), self.labels[index])
        return Split(Rows(self.images, index), self.labels[index])


class Statistics(NamedTuple):
    """Mean and standard deviation of the channels red, green and blue, of pixel values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Batch(NamedTuple):
    """Images uint8 (N, S, S, 3) and labels int64 (N,), on one device."""

    images: Tensor
    labels: Tensor


def load_train_and_val(val_size: int, seed: int) -> tuple[Split, Split]:
    """The images to train on, and those to validate on: held-out ones, or with a `val_size` of 0 the test images."""
    everything = load_split("train")
    if val_size == 0:
        return everything, load_split("test")
    train, val = hold_out(everything.labels, val_size, seed)
    return everything.take(train), everything.take(val)


def save_split(name: str, split: Split, folder: Path = FOLDER) -> None:
    """Write the split as <name>_images.npy and <name>_labels.npy, and their checksums as <name>.sha256."""
    shape = split.images.shape
    size = max(1, BLOCK // math.prod(shape[1:]))
    blocks = (split.images[start : start + size] for start in range(0, len(split.images), size))
    write_blocks(folder / f"{name}_images.npy", np.dtype(np.uint8), shape, blocks)
    write_array(folder / f"{name}_labels.npy", split.labels)
    write_checksums(folder / f"{name}.sha256", [f"{name}_images.npy", f"{name}_labels.npy"])


def load_split(name: str, folder: Path = FOLDER) -> Split:
    """The split `train` or `test`, its images mapped.

    Raises InputError unless the files are as `save_split` writes them, with labels of the classes in the same folder.
    """
    classes = len(load_classes(folder))
    images = map_array(folder / f"{name}_images.npy", "uint8", (None, None, None, 3))
    labels = read_array(folder / f"{name}_labels.npy", label_dtype(classes), (len(images),))
    check_checksums(folder / f"{name}.sha256", [f"{name}_images.npy", f"{name}_labels.npy"])
    if len(images) == 0:
        raise InputError(f"{folder}/{name}_images.npy holds no image; delete {folder} and run `make repro`")
    height, width = images.shape[1:3]
    if height != width or height not in SIZES:
        raise InputError(
            f"{folder}/{name}_images.npy holds images of {height} x {width} pixels, expected squares of "
            f"{SIZES[0]} to {SIZES[-1]}; run `make repro`"
        )
    if labels.max() >= classes:
        raise InputError(
            f"{folder}/{name}_labels.npy holds label {labels.max()}, expected 0 to {classes - 1}; run `make repro`"
        )
    return Split(images, labels)


def label_dtype(classes: int) -> str:
    """The dtype of the labels and predictions of so many classes."""
    return "uint8" if classes <= 256 else "uint16"


def save_classes(names: list[str], folder: Path = FOLDER) -> None:
    write_text(folder / "classes.txt", "\n".join(names) + "\n")


def load_classes(folder: Path = FOLDER) -> list[str]:
    """The names of the 2 to 1,000 classes: label k is line k, counted from 0; raises InputError for any other file."""
    path = folder / "classes.txt"
    try:
        names = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last line ends too
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError:
        names = []
    if len(names) not in CLASS_COUNTS or len(set(names)) != len(names):
        raise InputError(
            f"{path} holds {len(names)} names, {len(set(names))} different ones, expected {CLASS_COUNTS[0]} to "
            f"{CLASS_COUNTS[-1]:,} different names; run `make repro`"
        )
    for name in names:
        if not name.isprintable() or not name.strip():
            raise InputError(f"{path} holds a class named '{printable(name)}'; run `make repro`")
    return names


def hold_out(labels: np.ndarray, val_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (N - val_size,) to train on and (val_size,) to validate on, both ascending.

    Stratified: each class has its share of `val_size`, to within one image (largest remainder method). Raises
    InputError if no image would be left to train on.
    """
    random = np.random.default_rng([seed, 0x5EED])
    if val_size >= len(labels):
        raise InputError(f"val_size is {val_size}, it must be below the {len(labels)} training images")
    counts = np.bincount(labels)
    shares = counts * val_size / len(labels)
    quota = np.floor(shares).astype(int)
    largest_remainders = np.argsort(quota - shares, kind="stable")[: val_size - quota.sum()]
    quota[largest_remainders] += 1
    val_by_class = [random.permutation(np.flatnonzero(labels == k))[: quota[k]] for k in range(len(counts))]
    val = np.sort(np.concatenate(val_by_class))
    return np.setdiff1d(np.arange(len(labels)), val, assume_unique=True), val


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The indices 0 to count - 1 in an order drawn from (seed, epoch), cut into batches; the last may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


class Means(Result):
    red: Mean
    green: Mean
    blue: Mean


class Deviations(Result):
    red: Std
    green: Std
    blue: Std


class StatsFile(Result):
    """What training needs of metrics/stats.json."""

    mean: Means
    std: Deviations


def load_statistics(path: Path = Path("metrics/stats.json")) -> Statistics:
    """The statistics of all training pixels; raises InputError if the file is missing or holds other values."""
    stats = read_section(path, StatsFile)
    mean, std = ((section.red, section.green, section.blue) for section in (stats.mean, stats.std))
    return Statistics(mean, std)
