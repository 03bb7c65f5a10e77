"""What is in a data set: the channels' mean and deviation, and how many images of which class and size."""

import math

import numpy as np
import pandas as pd

from cifar.data.splits import Split

CHANNELS = ("red", "green", "blue")
BLOCK = 1000  # images at a time, to bound the memory


def channel_statistics(images: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and population standard deviation in [0, 1] of each channel over all pixels of `images`, uint8 (N, H, W, 3).

    One pass. The sums are integers, so nothing is rounded before the last division.
    """
    sums, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for start in range(0, len(images), BLOCK):
        pixels = images[start : start + BLOCK].reshape(-1, 3).astype(np.int32)
        sums += pixels.sum(axis=0, dtype=np.int64)
        squares += (pixels * pixels).sum(axis=0, dtype=np.int64)
    count = images.size // 3
    mean, std = {}, {}
    for channel, s, q in zip(CHANNELS, map(int, sums), map(int, squares), strict=True):
        mean[channel] = s / (255 * count)
        std[channel] = math.sqrt(count * q - s * s) / (255 * count)
    return mean, std


def count_classes(splits: dict[str, Split], classes: list[str]) -> pd.DataFrame:
    """The columns class, split, images: a row for every class of each of `splits`, also where it has no image."""
    rows = []
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(classes))
        rows += [{"class": c, "split": name, "images": n} for c, n in zip(classes, counts, strict=True)]
    return pd.DataFrame(rows)


def count_sizes(splits: dict[str, Split]) -> pd.DataFrame:
    """The columns split, size (height x width x channels) and images; a split has one size, as it is one array."""
    rows = [
        {"split": name, "size": " x ".join(map(str, images.shape[1:])), "images": len(images)}
        for name, (images, _) in splits.items()
    ]
    return pd.DataFrame(rows)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices (10, M) of the first images of each class, where M is `count` or, if that is less, the smallest class."""
    count = min(count, np.bincount(labels, minlength=10).min())
    return np.stack([np.flatnonzero(labels == k)[:count] for k in range(10)])
