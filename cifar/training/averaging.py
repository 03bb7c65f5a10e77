"""The average of a network's weights while it trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifar.config.schema import AverageSpec, ExponentialAverage, Lookahead, NoAverage


@dataclass(kw_only=True, eq=False)
class Average:
    """A second network, whose weights and norm statistics follow those of the network that trains."""

    model: AveragedModel
    every: int  # steps
    leads: bool  # does the network continue from the average?

    def follow(self, network: nn.Module, steps: int) -> None:
        """Update the average after every `every` steps; if it leads, `network` continues from it."""
        if steps % self.every == 0:
            self.model.update_parameters(network)
            if self.leads:
                network.load_state_dict(self.model.module.state_dict())


def build_average(network: nn.Module, spec: AverageSpec, steps: int) -> Average | None:
    """The average of the weights and norm statistics in a training of `steps` steps; None without one."""
    if isinstance(spec, NoAverage):
        return None
    decay_after = _decay(spec, steps)

    def follow(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
        if averages[0].is_floating_point():  # all tensors of a call have one type
            # The model's own count is on the CPU; reading `updates`, its copy on the device, would wait for a GPU.
            get_ema_multi_avg_fn(decay_after(int(model.n_averaged)))(averages, values, updates)
        else:  # batch norm's counts of steps
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    model = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
    return Average(model=model, every=spec.every, leads=isinstance(spec, Lookahead))


def _decay(spec: ExponentialAverage | Lookahead, steps: int) -> Callable[[int], float]:
    """The weight of the old average in the next update, from the number of updates so far.

    `ema`: Page, "How to Train Your ResNet 8" (2019). It starts lower, so that the average forgets the initial weights:
    after n updates (1 + n) / (10 + n) where that is below `decay`, as in TensorFlow's ExponentialMovingAverage.
    `lookahead`: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019). It grows from 0 to `decay`
    with the cube of the steps, as in Jordan, "94% on CIFAR-10 in 3.29 Seconds" (2024).
    """
    match spec:
        case ExponentialAverage(decay=decay):
            return lambda updates: min(decay, (1 + updates) / (10 + updates))
        case Lookahead(decay=decay, every=every):
            return lambda updates: decay * ((updates + 1) * every / steps) ** 3
