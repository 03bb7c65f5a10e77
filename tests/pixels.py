"""What a sheet of images shows: its pixels, and where in them an image lies; and what augmentation makes of images."""

from collections.abc import Sequence

import matplotlib.image
import numpy as np
import torch

from cifar.data.policy import Policy, augment_batch

MATPLOTLIBRC = {  # settings that change a picture
    "font.family": "serif",
    "font.size": 20,
    "text.color": "red",
    "text.antialiased": False,
    "text.hinting": "none",
    "figure.facecolor": "black",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "axes.facecolor": "yellow",
    "axes.formatter.use_locale": True,
    "lines.antialiased": False,
    "path.sketch": (1, 100, 2),
}


def augmented(policy: Policy, images: np.ndarray, key: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Images uint8 (N, 32, 32, 3), the first N of the training images, through `policy` with the draws of `key`."""
    return augment_batch(policy, torch.from_numpy(images), np.arange(len(images)), key).numpy()


def read_png(path: str) -> np.ndarray:
    """Pixels uint8 (H, W, 3)."""
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(np.uint8)


def place_of(image: np.ndarray, sheet: np.ndarray) -> tuple[int, int]:
    """Row and column at which `image` (H, W, 3), enlarged 4 times, lies on the sheet, pixel for pixel."""
    large = image.repeat(4, axis=0).repeat(4, axis=1)
    for row, column in np.argwhere((sheet == large[0, 0]).all(axis=2)):
        window = sheet[row : row + len(large), column : column + len(large)]
        if np.array_equal(window, large):
            return int(row), int(column)
    raise AssertionError("the image is not on the sheet")
