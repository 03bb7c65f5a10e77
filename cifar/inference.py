"""From images to logits: how an image enters a network, and what comes out of it in eval mode."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images uint8 (N, H, W, C) to float32 (N, C, H, W), channels last in memory, of mean 0 and deviation 1."""
    shift = torch.tensor([255 * m for m in mean], device=images.device)
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device)
    return ((images - shift) * scale).permute(0, 3, 1, 2)


@torch.no_grad()
def predict(
    network: nn.Module,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    precision: torch.dtype = torch.float32,
    batch_size: int = 500,
) -> np.ndarray:
    """Logits float32 (N, 10) of images uint8 (N, 32, 32, 3), in eval mode; the network's mode is restored."""
    device = next(network.parameters()).device
    was_training, _ = network.training, network.eval()
    logits = []
    for start in range(0, len(images), batch_size):
        batch = normalise(torch.from_numpy(images[start : start + batch_size]).to(device), mean, std)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits.append(network(batch).float().cpu())
    network.train(was_training)
    return torch.cat(logits).numpy()
