"""From images to logits: how an image enters a network, and what comes out of it in eval mode."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images uint8 (N, H, W, C) to float32 (N, C, H, W), channels last in memory, of mean 0 and deviation 1."""
    shift = torch.tensor([255 * m for m in mean]).to(images.device, non_blocking=True)
    scale = torch.tensor([1 / (255 * s) for s in std]).to(images.device, non_blocking=True)
    return ((images - shift) * scale).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(
    network: nn.Module,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    precision: torch.dtype = torch.float32,
    augmentation: str = "none",
    batch_size: int = 500,
) -> np.ndarray:
    """Logits float32 (N, 10) of images uint8 (N, 32, 32, 3), in eval mode; the network's mode is restored.

    With test-time augmentation they are the weighted mean over several views of each image: see `views`.
    """
    device = next(network.parameters()).device
    was_training, _ = network.training, network.eval()
    logits = []
    for start in range(0, len(images), batch_size):
        batch = normalise(torch.from_numpy(images[start : start + batch_size]).to(device), mean, std)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            seen = [weight * network(view).float() for weight, view in views(batch, augmentation)]
        logits.append(sum(seen[1:], seen[0]).cpu())
    network.train(was_training)
    return torch.cat(logits).numpy()


def views(inputs: Tensor, augmentation: str) -> list[tuple[float, Tensor]]:
    """What a network looks at in place of inputs (N, C, H, W), with the weights of each, which sum to 1.

    `none` is the inputs themselves; `flip` them and their mirror images; `flip_shift` also both of these shifted by a
    pixel up and left, and down and right, with reflected borders, which together weigh as much as the unshifted ones:
    airbench94's six views.
    """
    places = [(1.0, inputs)]
    if augmentation == "flip_shift":
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        places = [(0.5, inputs), (0.25, padded[..., :height, :width]), (0.25, padded[..., 2:, 2:])]
    if augmentation == "none":
        return places
    return [(weight / 2, view) for weight, place in places for view in (place, place.flip(-1))]
