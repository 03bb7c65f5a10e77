"""The average of a network's weights while it trains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(NamedTuple):
    """A second network, whose weights and statistics follow those of one that trains."""

    model: AveragedModel
    every: int  # steps
    leads: bool  # does the network go on from the average?

    def follow(self, network: nn.Module, steps: int) -> None:
        """Take in the network's weights, which have made `steps` steps, if it is time; give back a leading average."""
        if steps % self.every == 0:
            self.model.update_parameters(network)
            if self.leads:
                network.load_state_dict(self.model.module.state_dict())


def build_average(network: nn.Module, spec: dict[str, Any], steps: int) -> Average | None:
    """The average that `spec` names, in a training of `steps` steps; the statistics of the norms with the weights.

    None; or `ema`, which keeps `decay` of itself `every` so many steps: Page, "How to Train Your ResNet 8" (2019). At
    first it keeps less, lest it remember the initial weights: after n updates (1 + n) / (10 + n) where that is below
    `decay`, as TensorFlow's ExponentialMovingAverage has it. Or `lookahead`, from which the network goes on each time:
    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019). What it keeps of itself grows from 0 to
    `decay` by the cube of the steps, as in Jordan, "94% on CIFAR-10 in 3.29 Seconds" (2024).
    """
    if spec["name"] == "none":
        return None

    def kept(updates: int) -> float:
        if spec["name"] == "ema":
            return min(spec["decay"], (1 + updates) / (10 + updates))
        return spec["decay"] * ((updates + 1) * spec["every"] / steps) ** 3

    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
        get_ema_multi_avg_fn(kept(int(updates)))(averages, values, updates)

    model = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
    return Average(model, spec["every"], leads=spec["name"] == "lookahead")
