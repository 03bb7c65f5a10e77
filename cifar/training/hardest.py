"""Which images of a batch to train on: those that a small network, the proxy, finds hardest."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cifar.config.schema import NoAverage, NoFilter
from cifar.data.splits import Batch, Rows, Statistics
from cifar.training.trainer import Trainer, TrainerSpec, build_loss, build_trainer, check_finite


@dataclass(kw_only=True, eq=False)
class Filter:
    """A proxy that picks the images with the largest losses, and learns from its picks in every `every`th step.

    Jordan, cifar10-airbench, airbench96_faster.py (2024). There the proxy is trained first and its picks are stored.
    Picking step by step gives the same images, because the proxy does not depend on the network that trains on them.
    The idea is from Coleman et al., "Selection via Proxy" (2020).
    """

    proxy: Trainer
    losses_of: Callable[[Tensor, Tensor], Tensor]  # of logits (N, C) and targets (N,): (N,)
    share: float  # of a batch to pick
    every: int  # steps

    def hardest(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The indices, ascending, of the `share` (rounded, at least one) of logits (N, C) with the largest losses."""
        losses = self.losses_of(logits.detach(), targets)  # (N,)
        count = max(1, round(self.share * len(losses)))
        return losses.argsort(descending=True, stable=True)[:count].sort().values

    def narrow(
        self, epoch: int, batches: Iterable[Batch], lrs: Sequence[float], momenta: Sequence[float]
    ) -> Iterator[Batch]:
        """The hardest images of each batch of an epoch, counted from 0.

        The proxy learns with the learning rate and the momentum at the batch's position in `lrs` and `momenta`. Raises
        InputError when one of its losses was not finite; after the last batch, since reading a loss earlier would make
        the processor wait for a GPU.
        """
        self.proxy.network.begin_epoch(epoch)
        self.proxy.network.train()
        learnt = []
        for number, (batch, lr, momentum) in enumerate(zip(batches, lrs, momenta, strict=True), epoch * len(lrs)):
            images, targets = (values.to(self.proxy.device, non_blocking=True) for values in batch)
            learns = number % self.every == 0
            with torch.set_grad_enabled(learns):
                logits = self.proxy.logits(images)
            picks = self.hardest(logits, targets)
            targets = targets.index_select(0, picks)
            if learns:
                learnt.append((number, lr, self.proxy.update(logits.index_select(0, picks), targets, lr, momentum)[0]))
            yield Batch(images.index_select(0, picks), targets)
        for number, lr, loss in learnt:
            check_finite(loss.item(), "the loss of filter.model", number, lr)


def build_filter(spec: TrainerSpec, statistics: Statistics, images: np.ndarray | Rows) -> Filter | None:
    """The filter of a trainer with this `spec`, or None; see `build_trainer` for the arguments.

    The proxy is trained as the trainer's network is, but without an average, and always on whole batches.
    """
    if isinstance(spec.filter, NoFilter):
        return None
    proxy_spec = replace(spec, model=spec.filter.model, average=NoAverage(name="none"), shards=1)
    proxy = build_trainer(proxy_spec, statistics, images)
    losses_of = build_loss(spec.loss, reduction="none")
    return Filter(proxy=proxy, losses_of=losses_of, share=spec.filter.share, every=spec.filter.every)
