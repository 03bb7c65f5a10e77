"""From images to logits: how an image enters a network, and what comes out of it in eval mode."""

from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.splits import Rows, Statistics
from cifar.system.processes import every_nth, gather
from cifar.system.progress import progress

PIXELS = 500 * 32 * 32  # of the images that a network takes at a time, to bound the memory


def images_at_once(shape: tuple[int, ...], pixels: int) -> int:
    """How many images of an array of this shape (N, H, W, 3) have so many pixels together: one or more."""
    return max(1, pixels // (shape[1] * shape[2]))


def normalise(images: Tensor, statistics: Statistics) -> Tensor:
    """Images uint8 (N, H, W, 3) to float32 (N, 3, H, W), channels last in memory, with mean 0 and deviation 1."""
    shift = torch.tensor([255 * m for m in statistics.mean]).to(images.device, non_blocking=True)
    scale = torch.tensor([1 / (255 * s) for s in statistics.std]).to(images.device, non_blocking=True)
    return ((images - shift) * scale).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(
    network: nn.Module,
    images: np.ndarray | Rows,
    statistics: Statistics,
    *,
    precision: torch.dtype = torch.float32,
    augmentation: str = "none",
    label: str = "predict",
) -> np.ndarray:
    """Logits float32 (N, C) of images uint8 (N, H, W, 3), in eval mode; afterwards the network's mode is restored.

    With a test-time `augmentation` they are the weighted mean over several views of each image: see `views`. The
    progress bar, which appears after a second, is called `label`. The images are computed in batches of
    PIXELS pixels, shared by several processes; each process gets all logits.
    """
    batch_size = images_at_once(images.shape, PIXELS)
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    logits = []
    starts = every_nth(range(0, len(images), batch_size))
    for start in progress(starts, len(starts), label, "batches", delay=1):
        batch = normalise(torch.from_numpy(images[start : start + batch_size]).to(device), statistics)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            weighted = [weight * network(view).float() for weight, view in views(batch, augmentation)]
        logits.append(sum(weighted[1:], weighted[0]).cpu())
    network.train(was_training)
    pieces = [piece for turn in zip_longest(*gather(logits)) for piece in turn if piece is not None]
    return torch.cat(pieces).numpy()


def views(inputs: Tensor, augmentation: str) -> list[tuple[float, Tensor]]:
    """Views of the inputs (N, C, H, W), each with its weight in the mean over the views; the weights sum to 1.

    - `none`: the inputs as they are.
    - `flip`: the inputs and their mirror images.
    - `flip_shift`: six views, as in airbench94. The inputs and their mirror images, each also shifted by one pixel up
      and left, and down and right, with reflected borders. The shifted views have half of the weight together.
    """
    shifted = [(1.0, inputs)]
    if augmentation == "flip_shift":
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        shifted = [(0.5, inputs), (0.25, padded[..., :height, :width]), (0.25, padded[..., 2:, 2:])]
    if augmentation == "none":
        return shifted
    return [(weight / 2, view) for weight, images in shifted for view in (images, images.flip(-1))]
