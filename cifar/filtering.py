"""Which images of a batch to train on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cifar.console import InputError
from cifar.engine import Batch, Trainer, build_loss, build_trainer


class Filter(NamedTuple):
    """A small network, the proxy, that picks the images which it finds hardest, and learns from some of its picks.

    Jordan, cifar10-airbench, airbench96_faster.py (2024). There the proxy is trained first and its picks are kept; as
    it knows nothing of the other network, those made step by step are the same. Its norms there see whole batches when
    it learns too, here its picks alone. The idea is that of Coleman et al., "Selection via Proxy" (2020).
    """

    proxy: Trainer
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits (N, 10) and targets (N,): (N,)
    share: float  # of a batch to keep
    every: int  # steps; the proxy learns from the picks of the first of them

    def hardest(self, batch: Batch) -> Batch:
        """The share of a batch that has the largest losses, at least one image, in the batch's order."""
        batch = Batch(*(values.to(self.proxy.device, non_blocking=True) for values in batch))
        self.proxy.network.train()
        with torch.no_grad():
            losses = self.loss(self.proxy.logits(batch.images), batch.labels)  # (N,)
        kept = max(1, round(self.share * len(losses)))
        index = losses.argsort(descending=True, stable=True)[:kept].sort().values
        return Batch(*(values.index_select(0, index) for values in batch))

    def narrow(
        self, epoch: int, batches: Iterable[Batch], lrs: Sequence[float], momenta: Sequence[float | None]
    ) -> Iterator[Batch]:
        """The hardest images of an epoch's batches; the proxy learns at the rate and the momentum of the same place.

        Epochs count from 0. Raises InputError after the last batch when the proxy's loss is not finite.
        """
        self.proxy.begin_epoch(epoch)
        objective, steps = None, zip(lrs, momenta, batches, strict=False)
        for number, (lr, momentum, batch) in enumerate(steps, start=epoch * len(lrs)):
            hardest = self.hardest(batch)
            if number % self.every == 0:
                objective = self.proxy.step(hardest, lr, momentum)[0]
            yield hardest
        if objective is not None and not objective.isfinite():
            raise InputError(f"training diverged: the loss of filter.model is {objective.item()}; lower lr_max")


def build_filter(specs: dict[str, dict[str, Any]], *arguments: Any) -> Filter | None:
    """The filter that `specs["filter"]` names: none, or `proxy`, trained by the loss and the optimizer of `specs`.

    The arguments are those of `build_trainer`.
    """
    spec = specs["filter"]
    if spec["name"] == "none":
        return None
    proxy = build_trainer({name: specs[name] for name in ("optimizer", "loss")} | {"model": spec["model"]}, *arguments)
    return Filter(proxy, build_loss(specs["loss"], "none"), spec["share"], spec["every"])
