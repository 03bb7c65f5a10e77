"""Which images of a batch to train on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cifar.data.splits import Batch
from cifar.training.trainer import Trainer, build_loss, build_trainer, check_finite


class Filter(NamedTuple):
    """A small network, the proxy, that picks the images which it finds hardest, and learns from some of its picks.

    Jordan, cifar10-airbench, airbench96_faster.py (2024). There the proxy is trained first and its picks are kept; as
    it knows nothing of the other network, those made step by step are the same. The idea is that of Coleman et al.,
    "Selection via Proxy" (2020).
    """

    proxy: Trainer
    losses_of: Callable[[Tensor, Tensor], Tensor]  # of logits (N, 10) and targets (N,): (N,)
    share: float  # of a batch to pick
    every: int  # from one step of which the proxy learns to the next

    def hardest(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Places, in order, of the share with the largest losses, rounded, at least one: of (N, 10) and (N,)."""
        losses = self.losses_of(logits.detach(), targets)  # (N,)
        count = max(1, round(self.share * len(losses)))
        return losses.argsort(descending=True, stable=True)[:count].sort().values

    def narrow(
        self, epoch: int, batches: Iterable[Batch], lrs: Sequence[float], momenta: Sequence[float]
    ) -> Iterator[Batch]:
        """The hardest images of an epoch's batches; the proxy learns at the rate and the momentum of the same place.

        Epochs count from 0. Raises InputError after the last batch when a loss from which the proxy learnt is not
        finite: to know it at once would make a processor wait for its GPU.
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


def build_filter(specs: dict[str, dict[str, Any]], *arguments: Any) -> Filter | None:
    """The filter that `specs["filter"]` names: none, or `proxy`.

    The arguments are those of `build_trainer`; loss, optimizer, regularisation, precision and seed of the other network
    are the proxy's too.
    """
    spec = specs["filter"]
    if spec["name"] == "none":
        return None
    proxy = build_trainer({name: specs[name] for name in ("optimizer", "loss")} | {"model": spec["model"]}, *arguments)
    return Filter(proxy, build_loss(specs["loss"], "none"), spec["share"], spec["every"])
