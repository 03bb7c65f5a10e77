"""Learning rate schedules: the whole plan at once, one learning rate for each step."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from cifar.config.schema import Constant, OneCycle, Plateau, ScheduleSpec, StepDecay, Triangular


class Plan(NamedTuple):
    """The learning rate and the momentum of every step, each (epochs, steps an epoch)."""

    lrs: np.ndarray
    momenta: np.ndarray


def plan(
    spec: ScheduleSpec,
    shape: tuple[int, int],
    val_accuracies: Sequence[float] = (),
    *,
    lr_min: float,
    lr_max: float,
    momentum: float,
) -> Plan:
    """The schedule over `shape` = (epochs, steps an epoch).

    `val_accuracies` are those of the finished epochs. Only `plateau` depends on them: its plan is final up to the next
    epoch, and keeps that epoch's rate from there on. Only `one_cycle` changes the momentum.
    """
    epochs, epoch_steps = shape
    steps = epochs * epoch_steps
    momenta = np.full(steps, momentum)
    match spec:
        case OneCycle():
            peak = min(round(spec.peak_epoch * epoch_steps), max(steps - 2, 0))  # the last step is the end
            cycle = partial(one_cycle, steps, peak, spec.anneal)
            lrs = cycle(start=lr_min, top=lr_max, end=lr_min * spec.end_factor)
            if spec.peak_momentum != "same":
                momenta = cycle(start=momentum, top=spec.peak_momentum, end=momentum)
        case Triangular():
            lrs = triangular(steps, spec.half_cycle, lr_min, lr_max)
        case StepDecay():
            rates = step_decay(epochs, every=spec.every, factor=spec.factor, lr_min=lr_min, lr_max=lr_max)
            lrs = rates.repeat(epoch_steps)
        case Plateau():
            limits = {"lr_min": lr_min, "lr_max": lr_max}
            rates = plateau(val_accuracies, patience=spec.patience, factor=spec.factor, **limits)
            lrs = np.pad(rates, (0, epochs + 1 - len(rates)), mode="edge")[:epochs].repeat(epoch_steps)
        case Constant():
            lrs = np.full(steps, lr_max)
    return Plan(lrs.reshape(shape), momenta.reshape(shape))


def one_cycle(steps: int, peak: int, anneal: str, *, start: float, top: float, end: float) -> np.ndarray:
    """From `start` at step 0 to `top` at step `peak`, and to `end` at the last step (steps,).

    Each half is a straight line (`linear`) or half a period of a cosine (`cosine`). Smith, "Super-convergence" (2018).
    """
    ramp = RAMPS[anneal]
    rise = start + (top - start) * ramp(np.arange(peak) / max(peak, 1))
    return np.concatenate([rise, end + (top - end) * ramp(np.linspace(1, 0, steps - peak))])


RAMPS = {"linear": lambda progress: progress, "cosine": lambda progress: (1 - np.cos(np.pi * progress)) / 2}


def triangular(steps: int, half_cycle: int, lr_min: float, lr_max: float) -> np.ndarray:
    """Triangles between `lr_min` and `lr_max`, `half_cycle` steps up and as many down (steps,).

    Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), policy "triangular".
    """
    phase = np.arange(steps) % (2 * half_cycle) / half_cycle  # 0 to 2: up until 1, then down
    return lr_min + (lr_max - lr_min) * (1 - np.abs(phase - 1))


def step_decay(epochs: int, *, every: int, factor: float, lr_min: float, lr_max: float) -> np.ndarray:
    """`lr_max`, times `factor` after every `every` epochs, but not below `lr_min` (epochs,)."""
    return np.maximum(lr_max * factor ** (np.arange(epochs) // every), lr_min)


def plateau(accuracies: Sequence[float], *, patience: int, factor: float, lr_min: float, lr_max: float) -> np.ndarray:
    """The rates of the epochs whose validation accuracies are known, and of the next epoch (epochs + 1,).

    `lr_max`, times `factor` each time that more than `patience` epochs in a row did not beat the best accuracy, but not
    below `lr_min`. As in PyTorch's ReduceLROnPlateau in mode max, an epoch beats the best by more than a ten-thousandth
    of it, and a change of the rate by 1e-8 or less is left out.
    """
    rates, best, waited = [lr_max], -np.inf, 0
    for accuracy in accuracies:
        best, waited = (accuracy, 0) if accuracy > best * (1 + 1e-4) else (best, waited + 1)
        lr = rates[-1]
        if waited > patience:
            lowered, waited = max(lr * factor, lr_min), 0
            lr = lowered if lr - lowered > 1e-8 else lr
        rates.append(lr)
    return np.array(rates)


def exponential(steps: int, lr_start: float, lr_end: float) -> np.ndarray:
    """The rates of a range test: from `lr_start` to `lr_end`, each a constant multiple of the one before (steps,)."""
    return np.geomspace(lr_start, lr_end, steps)
