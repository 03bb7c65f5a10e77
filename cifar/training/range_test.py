"""The learning rate range test: train for a few steps at rising rates, and look where the loss falls."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from cifar.config.params import read_section
from cifar.config.schema import Constant, Positive, Result, ScheduleSpec
from cifar.data.splits import Batch
from cifar.system.errors import InputError
from cifar.training.trainer import Trainer


def sweep(
    trainer: Trainer,
    batches: Iterable[Batch],
    lrs: np.ndarray,
    *,
    smoothing: float,
    stop_factor: float,
) -> pd.DataFrame:
    """One training step on each batch at each of `lrs` in turn: a table of `lr,loss,smoothed_loss`, one row a step.

    `smoothed_loss` is an exponential moving average in which the newest loss has the weight `smoothing`, with its bias
    corrected. The sweep ends after the last rate, or earlier: when the loss is not finite, or when its average exceeds
    `stop_factor` times its lowest value. This stop needs at least 1 / `smoothing` losses, because the first few may
    rise, as in Adam's first steps. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017); the stop is
    from fastai. Raises InputError if the first loss, which no rate has changed yet, is not finite.
    """
    rows, average = [], 0.0
    for number, (lr, batch) in enumerate(zip(lrs, batches, strict=False), start=1):
        loss = trainer.step(batch, lr)[0].item()
        if not np.isfinite(loss):
            if not rows:
                raise InputError(f"the first loss of the range test is {loss}; change the model or the loss")
            break
        average += smoothing * (loss - average)
        rows.append((lr, loss, average / (1 - (1 - smoothing) ** number)))
        is_settled = number * smoothing >= 1
        if is_settled and rows[-1][-1] > stop_factor * min(smoothed for _, _, smoothed in rows):
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed_loss"])


def suggest(curve: pd.DataFrame) -> dict[str, float]:
    """`lr_max` and `lr_min` on a curve as `sweep` makes it; both are rates of the sweep.

    `lr_max` is the rate with the lowest smoothed loss. The average falls exactly as long as the raw loss lies below it,
    so it still falls after the raw loss has stopped. `lr_min` is the first rate at which the smoothed loss has made a
    fifth of its fall; the fifth is this project's choice. The result is empty when the loss never falls.
    """
    smoothed = curve["smoothed_loss"].to_numpy()
    bottom = int(np.argmin(smoothed))
    if bottom == 0:
        return {}
    top = int(np.argmax(smoothed[:bottom]))  # the first average, of one loss, may lie low by chance
    fifth = smoothed[top] - (smoothed[top] - smoothed[bottom]) / 5
    start = top + int(np.argmax(smoothed[top : bottom + 1] <= fifth))
    return {"lr_max": float(curve["lr"][bottom]), "lr_min": float(curve["lr"][start])}


class Suggestion(Result):
    """What training needs of metrics/lr_find.json: the suggested rates, or none where the loss never fell."""

    lr_max: Positive | None = None
    lr_min: Positive | None = None


def choose_rates(lr_min: float | str, lr_max: float | str, schedule: ScheduleSpec) -> dict[str, float]:
    """`lr_min` and `lr_max` with the range test's suggestion in place of `find`.

    A constant schedule uses `lr_max` alone; where `lr_min` has no suggestion, it is then `lr_max`. Raises InputError
    when a rate that the schedule uses has no suggestion, or when it uses both and `lr_min` is above `lr_max`.
    """
    is_constant = isinstance(schedule, Constant)
    suggestion = read_section("metrics/lr_find.json", Suggestion)
    lr_max = suggestion.lr_max if lr_max == "find" else lr_max
    lr_min = suggestion.lr_min if lr_min == "find" else lr_min
    if lr_min is None and is_constant:
        lr_min = lr_max
    if None in (lr_min, lr_max):
        raise InputError(
            "the range test suggests no learning rate (see plots/lr_find/curve.png); set numbers for lr_max and lr_min"
        )
    if lr_min > lr_max and not is_constant:
        raise InputError(
            f"lr_min is {lr_min:g}, but must be at most lr_max ({lr_max:g}); lower it, or set both to find"
        )
    return {"lr_min": lr_min, "lr_max": lr_max}


def at_the_ends(suggestion: dict[str, float], lrs: np.ndarray) -> str:
    """A warning if a suggestion lies at an end of the range `lrs`, where a better rate may lie outside; or "".

    That is an `lr_max` at the last rate, where the loss still falls, or an `lr_min` within the first 5 % of the rates.
    """
    if not suggestion:
        return ""
    warnings = []
    if suggestion["lr_max"] >= lrs[-1]:
        warnings.append(
            f"lr_max {lrs[-1]:.3g} is the range's highest rate, where the loss still falls: raise lr_find.lr_end"
        )
    if suggestion["lr_min"] <= lrs[int(0.05 * (len(lrs) - 1))]:
        warnings.append(f"lr_min {suggestion['lr_min']:.3g} is at the range's start: lower lr_find.lr_start")
    return "; ".join(warnings)
