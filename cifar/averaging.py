"""The average of a network's weights while it trains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(NamedTuple):
    """A second network, whose weights and statistics follow those of one that trains."""

    model: AveragedModel
    every: int  # steps

    def follow(self, network: nn.Module, steps: int) -> None:
        """Take in the network's weights, which have made `steps` steps, if it is time."""
        if steps % self.every == 0:
            self.model.update_parameters(network)


def build_average(network: nn.Module, spec: dict[str, Any]) -> Average | None:
    """The average that `spec` names: none, or `ema`, which keeps `decay` of itself `every` so many steps.

    Page, "How to Train Your ResNet 8" (2019): every 5 steps, the statistics of the norms with the weights. At first it
    keeps less, lest it remember the initial weights: after n updates (1 + n) / (10 + n) where that is below `decay`,
    as TensorFlow's ExponentialMovingAverage has it.
    """
    if spec["name"] == "none":
        return None

    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
        n = int(updates)
        get_ema_multi_avg_fn(min(spec["decay"], (1 + n) / (10 + n)))(averages, values, updates)

    return Average(AveragedModel(network, multi_avg_fn=follow, use_buffers=True), spec["every"])
