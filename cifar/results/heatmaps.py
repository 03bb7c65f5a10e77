"""Heatmaps on disk: for the mistakes that the report shows, one for the predicted and one for the true class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar.results.predictions import Predictions
from cifar.system.errors import InputError
from cifar.system.files import read_arrays, replacing

HEATMAPS = Path("data/heatmaps.npz")
METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++"}
PIXELS = 650 * 32 * 32  # of all shown mistakes together, so that a report stays under 6 MB whatever the images' size


class Heatmaps(NamedTuple):
    """Indices int64 (M,) of the most confident mistakes, and their maps uint8 (M, H, W), where 255 is the most.

    `predicted` are the maps for the predicted classes, `true` those for the true classes.
    """

    indices: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


def shown_mistakes(size: tuple[int, int]) -> int:
    """How many mistakes a report shows of images of this height and width: 650 of 32x32 pixels."""
    height, width = size
    return max(1, PIXELS // (height * width))


def save_heatmaps(heatmaps: Heatmaps, path: Path = HEATMAPS) -> None:
    """Write an .npz file with the arrays `indices`, `predicted` and `true`."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **heatmaps._asdict())


def load_heatmaps(predictions: Predictions, size: tuple[int, int], path: Path = HEATMAPS) -> Heatmaps:
    """The heatmaps for mistakes among `predictions`, of images of this height and width.

    Raises InputError if the file is missing or damaged, or belongs to other predictions.
    """
    heatmaps = Heatmaps(*read_arrays(path, Heatmaps._fields))
    count = len(heatmaps.indices) if heatmaps.indices.ndim else 0
    types = [(array.dtype.name, array.shape) for array in heatmaps]
    if types != [("int64", (count,)), ("uint8", (count, *size)), ("uint8", (count, *size))]:
        raise InputError(f"{path} does not fit the test images; run `dvc repro gradcam`")
    is_in_range = (heatmaps.indices >= 0) & (heatmaps.indices < len(predictions.labels))
    if not is_in_range.all() or (predictions.predicted == predictions.labels)[heatmaps.indices].any():
        raise InputError(f"{path} belongs to other predictions; run `dvc repro gradcam`")
    return heatmaps
