"""The training step, which training and the range test share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.console import InputError
from cifar.data import Split
from cifar.device import pick_device, pick_precision
from cifar.inference import normalise
from cifar.networks import build_network


class Step(NamedTuple):
    """What one update saw, before it: sums over the batch, so that batches of different sizes add up."""

    objective: float  # mean loss that was minimised, with label smoothing and without the L1 penalty
    penalty: float  # L1
    loss: float  # summed cross entropy
    correct: int
    images: int
    lr: float


class Trainer(NamedTuple):
    """All that a training step needs but the images: the same in training and in the range test."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits (N, 10) and targets (N,)
    l1: float
    mean: list[float]
    std: list[float]
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def step(self, batch: Split, lr: float, momentum: float | None = None) -> Step:
        """One update at learning rate `lr`, and at `momentum` (Adam's beta1) where it is not the optimizer's own."""
        inputs = normalise(torch.from_numpy(batch.images).to(self.device), self.mean, self.std)
        targets = torch.from_numpy(batch.labels).to(self.device).long()
        self.network.train()
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.network(inputs)
        logits = logits.float()  # (N, 10)
        objective, penalty = self.loss(logits, targets), self.penalty()
        self.optimizer.zero_grad(set_to_none=True)
        (objective + penalty).backward()
        self._set_rates(lr, momentum)
        self.optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.argmax(1) == targets).sum()
        return Step(objective.item(), penalty.item(), loss.item(), int(correct.item()), len(batch.labels), float(lr))

    def penalty(self) -> Tensor:
        """`l1` times the sum of the absolute values of the parameters that are regularised: the first group's."""
        if self.l1 == 0:
            return torch.zeros((), device=self.device)
        return self.l1 * sum(weights.abs().sum() for weights in self.optimizer.param_groups[0]["params"])

    def _set_rates(self, lr: float, momentum: float | None) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float(lr)
            if momentum is not None and "momentum" in group:
                group["momentum"] = float(momentum)
            elif momentum is not None:
                group["betas"] = (float(momentum), group["betas"][1])

    def state(self) -> dict[str, Any]:
        """What changes from step to step; randomness is keyed by (seed, epoch, batch) and has no state."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_trainer(
    network_spec: dict[str, Any],
    optimizer_spec: dict[str, Any],
    loss_spec: dict[str, Any],
    regularise: str,
    l1: float,
    mean: list[float],
    std: list[float],
    precision: str,
    seed: int,
) -> Trainer:
    """A fresh network on the device at hand, its optimizer, and what a step needs; rates are set at each step."""
    device = pick_device()
    network = build_network(network_spec, seed).to(device)
    optimizer = build_optimizer(network, optimizer_spec, regularise)
    return Trainer(network, optimizer, build_loss(loss_spec), l1, mean, std, pick_precision(precision, device))


def build_optimizer(network: nn.Module, spec: dict[str, Any], regularise: str) -> torch.optim.Optimizer:
    """The optimizer that `spec` names, over the network's parameters.

    Its first group are the parameters that weight decay and L1 pull on: `all`, or with `weights` the kernels and
    matrices alone. The others, biases and the norms' parameters, are then a second group without decay.
    """
    parameters = list(network.parameters())
    pulled = [weights for weights in parameters if regularise == "all" or weights.dim() > 1]
    groups = [{"params": pulled}]
    if len(pulled) < len(parameters):
        groups.append({"params": [weights for weights in parameters if weights.dim() == 1], "weight_decay": 0.0})
    options = {key: value for key, value in spec.items() if key not in ("name", "beta1", "beta2")}
    if spec["name"] == "sgd":
        return torch.optim.SGD(groups, lr=0.0, foreach=True, **options)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec["name"]]
    return kind(groups, lr=0.0, betas=(spec["beta1"], spec["beta2"]), foreach=True, **options)


def build_loss(spec: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss of logits (N, 10) and targets (N,) that `spec` names: `cross_entropy`, or `nll` of log-softmax."""
    if spec["name"] == "nll":
        return lambda logits, targets: F.nll_loss(F.log_softmax(logits, dim=1), targets)
    return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=spec["label_smoothing"])


def train_epoch(
    trainer: Trainer, batches: Iterable[Split], lrs: Sequence[float], momenta: Sequence[float], first_step: int
) -> Iterator[Step]:
    """One update a batch, at the learning rate and the momentum of the same place in `lrs` and `momenta`.

    Raises InputError, naming step (counted from `first_step`) and learning rate, when the loss is not finite.
    """
    for number, (batch, lr, momentum) in enumerate(zip(batches, lrs, momenta, strict=True), start=first_step):
        step = trainer.step(batch, lr, momentum)
        if not np.isfinite(step.objective + step.penalty):
            raise InputError(
                f"training diverged: the loss is {step.objective} at step {number}, learning rate {lr:.3g}; "
                f"lower lr_max (`dvc exp run -S lr_max={lr / 4:.2g}`) or use `lr_max: find`"
            )
        yield step
