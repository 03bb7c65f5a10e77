"""The training step, which training and the range test share."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import albumentations
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cifar.augment import augment_batch
from cifar.console import InputError
from cifar.data import Split, epoch_batches
from cifar.device import pick_device, pick_precision
from cifar.inference import normalise
from cifar.models import build_network


class Step(NamedTuple):
    """What one update saw, before it: sums over the batch, so that batches of different sizes add up."""

    objective: float  # mean loss that was minimised, with label smoothing
    loss: float  # summed cross entropy
    correct: int
    images: int
    lr: float


class Trainer(NamedTuple):
    """All that a training step needs but the images: the same in training and in the range test."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    mean: list[float]
    std: list[float]
    label_smoothing: float
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def step(self, batch: Split, lr: float) -> Step:
        """One update at learning rate `lr`."""
        inputs = normalise(torch.from_numpy(batch.images).to(self.device), self.mean, self.std)
        targets = torch.from_numpy(batch.labels).to(self.device).long()
        self.network.train()
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.network(inputs)
        logits = logits.float()  # (N, 10)
        objective = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = float(lr)
        self.optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.argmax(1) == targets).sum()
        return Step(objective.item(), loss.item(), int(correct.item()), len(batch.labels), float(lr))

    def state(self) -> dict[str, Any]:
        """What changes from step to step; randomness is keyed by (seed, epoch, batch) and has no state."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_trainer(
    network_spec: dict[str, Any],
    optimizer_spec: dict[str, Any],
    mean: list[float],
    std: list[float],
    label_smoothing: float,
    precision: str,
    seed: int,
) -> Trainer:
    """A fresh network on the device at hand, its optimizer, and what a step needs; rates are set at each step."""
    device = pick_device()
    network = build_network(network_spec, seed).to(device)
    options = {key: value for key, value in optimizer_spec.items() if key != "name"}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, foreach=True, **options)
    return Trainer(network, optimizer, mean, std, label_smoothing, pick_precision(precision, device))


def training_batches(
    split: Split, policy: albumentations.Compose, batch_size: int, seed: int, epoch: int
) -> Iterator[Split]:
    """The epoch's batches, shuffled and augmented."""
    for number, index in enumerate(epoch_batches(len(split.labels), batch_size, seed, epoch)):
        batch = split.take(index)
        yield Split(augment_batch(policy, batch.images, (seed, epoch, number)), batch.labels)


def train_epoch(trainer: Trainer, batches: Iterable[Split], lrs: Sequence[float], first_step: int) -> Iterator[Step]:
    """One update a batch at the learning rate of the same place in `lrs`.

    Raises InputError, naming step (counted from `first_step`) and learning rate, when the loss is not finite.
    """
    for number, (batch, lr) in enumerate(zip(batches, lrs, strict=True), start=first_step):
        step = trainer.step(batch, lr)
        if not np.isfinite(step.objective):
            raise InputError(
                f"training diverged: the loss is {step.objective} at step {number}, learning rate {lr:.3g}; "
                f"lower lr_max (`dvc exp run -S lr_max={lr / 4:.2g}`) or use `lr_max: find`"
            )
        yield step
