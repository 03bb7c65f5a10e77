"""The training step, which training and the range test share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.data.splits import Batch
from cifar.nn.inference import normalise
from cifar.nn.networks import Network, build_network
from cifar.system.device import pick_device, pick_precision
from cifar.system.process import InputError
from cifar.training.averaging import Average
from cifar.training.compiling import Compiled
from cifar.training.optimizers import build_optimizers

UNREAD = 50  # steps on a GPU before their losses are read


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

    network: Network
    forward: Callable[[Tensor], Tensor]  # the network, as it is or compiled
    optimizers: list[torch.optim.Optimizer]
    average: Average | None
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits (N, 10) and targets (N,)
    penalised: list[Tensor]  # what L1 pulls on
    l1: float
    mean: list[float]
    std: list[float]
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def result(self) -> nn.Module:
        """The network to validate and to keep: the averaged one, if there is one and it has begun."""
        has_begun = self.average is not None and self.average.model.n_averaged > 0
        return self.average.model.module if has_begun else self.network

    def step(self, batch: Batch, lr: float, momentum: float | None = None) -> Tensor:
        """One update at learning rate `lr`, and at `momentum` (Adam's beta1) where it is not the optimizer's own.

        Returns `objective`, `penalty`, `loss` and `correct` of Step as a tensor (4,) on the device, so that nothing
        need wait for it.
        """
        self.network.train()
        return self.update(self.logits(batch.images), batch.labels.to(self.device, non_blocking=True), lr, momentum)

    def update(self, logits: Tensor, targets: Tensor, lr: float, momentum: float | None = None) -> Tensor:
        """The second half of `step`: from logits (N, 10) and their targets (N,)."""
        objective, penalty = self.loss(logits, targets), self.penalty()
        (objective + penalty).backward()
        self._set_rates(lr, momentum)
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad(set_to_none=True)
        with torch.no_grad():
            loss = F.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.argmax(1) == targets).sum()
            return torch.stack([objective, penalty, loss, correct.float()])

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 (N, 10) of images uint8 (N, 32, 32, 3), by the network in the mode in which it is."""
        inputs = normalise(images.to(self.device, non_blocking=True), self.mean, self.std)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.forward(inputs)
        return logits.float()

    def penalty(self) -> Tensor:
        """`l1` times the sum of the absolute values of the parameters that it pulls on."""
        if self.l1 == 0:
            return torch.zeros((), device=self.device)
        return self.l1 * sum(weights.abs().sum() for weights in self.penalised)

    def _set_rates(self, lr: float, momentum: float | None) -> None:
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = float(lr) * group["lr_factor"]
            if momentum is not None and "momentum" in group:
                group["momentum"] = float(momentum)
            elif momentum is not None and "betas" in group:
                group["betas"] = (float(momentum), group["betas"][1])

    def state(self) -> dict[str, Any]:
        """What changes from step to step; randomness is keyed by (seed, epoch, batch) and has no state."""
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.model.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average:
            self.average.model.load_state_dict(state["average"])


def build_trainer(
    specs: dict[str, dict[str, Any]],
    regularise: str,
    bias_lr_factor: float,
    l1: float,
    mean: list[float],
    std: list[float],
    precision: str,
    seed: int,
    images: np.ndarray,
    compiled: bool = False,
) -> Trainer:
    """A fresh network on the device at hand, its optimizers, and what a step needs; rates are set at each step.

    `specs` are those of `model`, `optimizer` and `loss`; `images` uint8 (N, 32, 32, 3) are to train on, and the network
    is fitted to the first 5,000 of them. The weights are not averaged. What is `compiled` on a GPU is the network in a
    step, and that alone: see `Compiled`.
    """
    device = pick_device()
    network = build_network(specs["model"], seed)
    network.fit_to(normalise(torch.from_numpy(images[:5000]), mean, std))
    network = network.to(device)
    optimizers = build_optimizers(network, specs["optimizer"], regularise, bias_lr_factor, network.lr_factors())
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    penalised = [parameter for parameter in trained if regularise == "all" or parameter.dim() > 1]
    loss, precision = build_loss(specs["loss"]), pick_precision(precision, device)
    forward = Compiled(network) if compiled and device.type == "cuda" else network
    return Trainer(network, forward, optimizers, None, loss, penalised, l1, mean, std, precision)


def build_loss(spec: dict[str, Any], reduction: str = "mean") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (N, 10) and targets (N,) that `spec` names: `cross_entropy`, or `nll` of log-softmax.

    It is the mean over the images, or with a reduction of `none` (N,).
    """
    if spec["name"] == "nll":
        return lambda logits, targets: F.nll_loss(F.log_softmax(logits, dim=1), targets, reduction=reduction)
    smoothing = spec["label_smoothing"]
    return lambda logits, targets: F.cross_entropy(logits, targets, reduction=reduction, label_smoothing=smoothing)


def train_epoch(
    trainer: Trainer, batches: Iterable[Batch], lrs: Sequence[float], momenta: Sequence[float], first_step: int
) -> Iterator[Step]:
    """One update a batch, at the learning rate and the momentum of the same place in `lrs` and `momenta`.

    On a GPU the steps come some at a time, for reading one makes the processor wait for the GPU. Raises InputError,
    naming step (counted from `first_step`) and learning rate, when the loss is not finite.
    """
    unread_limit = 1 if trainer.device.type == "cpu" else UNREAD
    unread = []
    for number, (batch, lr, momentum) in enumerate(zip(batches, lrs, momenta, strict=True), start=first_step):
        unread.append((number, trainer.step(batch, lr, momentum), len(batch.labels), float(lr)))
        if trainer.average:
            trainer.average.follow(trainer.network, number + 1)
        if len(unread) == unread_limit:
            yield from _read(unread)
            unread = []
    yield from _read(unread)


def _read(steps: Sequence[tuple[int, Tensor, int, float]]) -> Iterator[Step]:
    """The steps, (number, values, images, learning rate) each, off the device in one go."""
    values = torch.stack([step[1] for step in steps]).tolist() if steps else []
    for (number, _, images, lr), (objective, penalty, loss, correct) in zip(steps, values, strict=True):
        check_finite(objective + penalty, "the loss", number, lr)
        yield Step(objective, penalty, loss, int(correct), images, lr)


def check_finite(loss: float, whose: str, step: int, lr: float) -> None:
    """Raises InputError when a loss is not finite."""
    if not np.isfinite(loss):
        raise InputError(
            f"training diverged: {whose} is {loss} at step {step}, learning rate {lr:.3g}; "
            "lower lr_max, or take the range test's rates (`dvc exp run -S lr_max=find -S lr_min=find`)"
        )
