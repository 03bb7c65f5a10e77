"""What a data set holds: mean and standard deviation of its channels, and counts of classes."""

import math

import numpy as np
import pandas as pd

from cifar.data.splits import Split
from cifar.system.errors import InputError

CHANNELS = ("red", "green", "blue")
BLOCK = 1000 * 32 * 32  # pixels at a time, to bound the memory


def channel_statistics(images: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and population standard deviation in [0, 1] of each channel over all pixels of `images`, uint8 (N, H, W, 3).

    One pass over the images. The sums are integers, so only the last square root and division round.
    """
    sums, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    block = max(1, BLOCK // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), block):
        pixels = images[start : start + block].reshape(-1, 3).astype(np.int32)
        sums += pixels.sum(axis=0, dtype=np.int64)
        squares += (pixels * pixels).sum(axis=0, dtype=np.int64)
    count = images.size // 3
    mean, std = {}, {}
    for channel, total, total_square in zip(CHANNELS, map(int, sums), map(int, squares), strict=True):
        mean[channel] = total / (255 * count)
        std[channel] = math.sqrt(count * total_square - total * total) / (255 * count)
    return mean, std


def refuse_constant(mean: dict[str, float], std: dict[str, float]) -> None:
    """Raise InputError if a channel has the same value in every pixel, because networks divide by its deviation."""
    for channel, deviation in std.items():
        if deviation == 0:
            found = f"{channel} is {round(255 * mean[channel])} in every pixel of the training images"
            raise InputError(f"{found}, so it cannot be normalised; add pictures in which it varies")


def count_classes(splits: dict[str, Split], classes: list[str]) -> pd.DataFrame:
    """A table with the columns class, split and images: one row for each class in each split, even without images."""
    rows = []
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(classes))
        rows += [{"class": c, "split": name, "images": n} for c, n in zip(classes, counts, strict=True)]
    return pd.DataFrame(rows)


def first_of_each_class(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Indices (K, M) of the first images of the first K `classes`; M is `count`, or less if one of them has fewer."""
    count = min(count, np.bincount(labels, minlength=classes)[:classes].min())
    return np.stack([np.flatnonzero(labels == k)[:count] for k in range(classes)])
