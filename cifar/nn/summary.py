"""A network's layers as a table for a person to read."""

import torchinfo
from torch import nn

from cifar.nn.plain import unfused


def summary(network: nn.Module, size: int) -> str:
    """The network's layers, with output shapes, parameters and multiplications for one image (1, 3, size, size)."""
    table = torchinfo.summary(unfused(network), (1, 3, size, size), depth=4, device="cpu", verbose=0)
    return f"{table}\n".replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")  # torchinfo 1.8.0
