"""The training step, which training and the range test share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.config.schema import NLL, AverageSpec, CrossEntropy, FilterSpec, LossSpec, ModelSpec, OptimizerSpec
from cifar.data.splits import Batch, Rows, Statistics
from cifar.nn.inference import images_at_once, normalise
from cifar.nn.networks import Network, Task, build_network
from cifar.system.device import pick_device, pick_precision
from cifar.system.errors import InputError
from cifar.training.averaging import Average, build_average
from cifar.training.compiling import Compiled
from cifar.training.optimizers import build_optimizers, is_weight
from cifar.training.shards import cut, sum_shards

UNREAD = 50  # steps on a GPU before their losses are read
FIT_PIXELS = 5000 * 32 * 32  # of the training images that a network is fitted to


@dataclass(frozen=True, kw_only=True)
class TrainerSpec:
    """What decides how a network is trained, apart from the data and the learning rates: sections of params.yaml."""

    model: ModelSpec
    optimizer: OptimizerSpec
    loss: LossSpec
    average: AverageSpec
    filter: FilterSpec  # see `cifar.training.hardest`
    regularise: str  # what weight decay and L1 act on: `all` parameters, or `weights` without biases and norms
    bias_lr_factor: float
    l1: float
    steps: int  # of the whole training
    precision: str
    compile: bool
    shards: int  # parts of each batch, a power of two; see `cifar.training.shards`
    seed: int  # of the initial weights
    classes: int  # of the data set


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one update saw before it changed the weights."""

    objective: float  # mean loss that was minimised, with label smoothing and without the L1 penalty
    penalty: float  # L1
    loss: float  # cross entropy, summed over the batch: sums of batches of different sizes can be added
    correct: int
    images: int
    lr: float


@dataclass(kw_only=True, eq=False)
class Trainer:
    """A network and all that a training step needs apart from the images."""

    network: Network
    forward: Callable[[Tensor], Tensor]  # the network, as it is or compiled
    optimizers: list[torch.optim.Optimizer]
    average: Average | None
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits (N, C) and targets (N,)
    penalised: list[Tensor]  # the parameters in the L1 penalty
    l1: float
    statistics: Statistics
    precision: torch.dtype
    shards: int

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def result(self) -> nn.Module:
        """The network to validate and to keep: the averaged one, once it has taken in any weights."""
        has_begun = self.average is not None and self.average.model.n_averaged > 0
        return self.average.model.module if has_begun else self.network

    def step(self, batch: Batch, lr: float, momentum: float | None = None) -> Tensor:
        """One update at learning rate `lr` and `momentum` (Adam's beta1); None keeps the momentum as it is.

        Returns `objective`, `penalty`, `loss` and `correct` of Step as a tensor (4,) on the device, so that nothing
        has to wait for a GPU.
        """
        self.network.train()
        if self.shards > 1:
            return self._step_by_shards(batch, lr, momentum)
        return self.update(self.logits(batch.images), batch.labels.to(self.device, non_blocking=True), lr, momentum)

    def update(self, logits: Tensor, targets: Tensor, lr: float, momentum: float | None = None) -> Tensor:
        """The second half of `step`: from logits (N, C) and their targets (N,)."""
        objective, penalty = self.loss(logits, targets), self.penalty()
        (objective + penalty).backward()
        self._descend(lr, momentum)
        return torch.stack([objective.detach(), penalty.detach(), *_scores(logits.detach(), targets)])

    def _step_by_shards(self, batch: Batch, lr: float, momentum: float | None) -> Tensor:
        """The same as `step`, from the gradients of the batch's shards; the penalty counts once."""
        parts = cut(len(batch.labels), self.shards)
        objective, loss, correct = sum_shards(self.network, parts, partial(self._backward, batch))
        penalty = self.penalty()
        if penalty.requires_grad:
            penalty.backward()
        self._descend(lr, momentum)
        return torch.stack([objective, penalty.detach(), loss, correct])

    def _backward(self, batch: Batch, part: slice) -> Tensor:
        """Add a shard's gradients to the network's; its share of the objective, its loss and correct: (3,)."""
        logits, targets = self.logits(batch.images[part]), batch.labels[part].to(self.device, non_blocking=True)
        objective = self.loss(logits, targets) * (len(targets) / len(batch.labels))
        objective.backward()
        return torch.stack([objective.detach(), *_scores(logits.detach(), targets)])

    def _descend(self, lr: float, momentum: float | None) -> None:
        """One update by the gradients, which are gone afterwards."""
        self._set_rates(lr, momentum)
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad(set_to_none=True)

    def logits(self, images: Tensor) -> Tensor:
        """Logits float32 (N, C) of images uint8 (N, S, S, 3); the network's mode stays as it is."""
        inputs = normalise(images.to(self.device, non_blocking=True), self.statistics)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.forward(inputs)
        return logits.float()

    def penalty(self) -> Tensor:
        """The L1 penalty: `l1` times the sum of the absolute values of `penalised`."""
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
        """What changes from step to step; random numbers are keyed by (seed, epoch, batch) and have no state."""
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average and self.average.model.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` of a trainer with the same spec."""
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average:
            self.average.model.load_state_dict(state["average"])


def build_trainer(spec: TrainerSpec, statistics: Statistics, images: np.ndarray | Rows) -> Trainer:
    """A fresh network on the best device, with its optimizers, loss and average.

    `images` uint8 (N, S, S, 3) are the training images: the network is fitted to the first of them, 5,000 of 32x32
    pixels. Each step sets the learning rates. `spec.compile` has an effect on a GPU only: see `Compiled`.
    """
    device = pick_device()
    network = build_network(spec.model, Task(images.shape[1], spec.classes), spec.seed)
    network.fit_to(normalise(torch.from_numpy(images[: images_at_once(images.shape, FIT_PIXELS)]), statistics))
    network = network.to(device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return Trainer(
        network=network,
        forward=Compiled(network) if spec.compile and device.type == "cuda" else network,
        optimizers=build_optimizers(
            network,
            spec.optimizer,
            regularise=spec.regularise,
            bias_lr_factor=spec.bias_lr_factor,
            lr_factors=network.lr_factors(),
        ),
        average=build_average(network, spec.average, spec.steps),
        loss=build_loss(spec.loss),
        penalised=[parameter for parameter in trained if spec.regularise == "all" or is_weight(parameter)],
        l1=spec.l1,
        statistics=statistics,
        precision=pick_precision(spec.precision, device),
        shards=spec.shards,
    )


def _scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cross entropy of logits (N, C), summed over the images, and the number that are correct."""
    return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(1) == targets).sum().float()


def build_loss(spec: LossSpec, reduction: str = "mean") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (N, C) and targets (N,): the mean over the images, or with the reduction `none` (N,)."""
    match spec:
        case NLL():
            return lambda logits, targets: F.nll_loss(F.log_softmax(logits, dim=1), targets, reduction=reduction)
        case CrossEntropy(label_smoothing=smoothing):
            return lambda logits, targets: F.cross_entropy(
                logits, targets, reduction=reduction, label_smoothing=smoothing
            )


def train_epoch(
    trainer: Trainer, batches: Iterable[Batch], lrs: Sequence[float], momenta: Sequence[float], *, first_step: int
) -> Iterator[Step]:
    """One update for each batch, with the learning rate and the momentum at its position in `lrs` and `momenta`.

    On a GPU the steps come in groups, because reading one makes the processor wait for the GPU. Raises InputError,
    which names step (counted from `first_step`) and learning rate, when the loss is not finite.
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
    """The steps, (number, values, images, learning rate) each, copied from the device at once."""
    values = torch.stack([step[1] for step in steps]).tolist() if steps else []
    for (number, _, images, lr), (objective, penalty, loss, correct) in zip(steps, values, strict=True):
        check_finite(objective + penalty, "the loss", number, lr)
        yield Step(objective=objective, penalty=penalty, loss=loss, correct=int(correct), images=images, lr=lr)


def check_finite(loss: float, name: str, step: int, lr: float) -> None:
    """Raises InputError, which names the loss by `name`, when it is not finite."""
    if not np.isfinite(loss):
        raise InputError(
            f"training diverged: {name} is {loss} at step {step}, learning rate {lr:.3g}; "
            "lower lr_max, or use the rates of the range test (`dvc exp run -S lr_max=find -S lr_min=find`)"
        )
