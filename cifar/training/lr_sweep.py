"""The learning rate range test: train a little at ever higher rates, and read the loss."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from cifar.data.splits import Batch
from cifar.training.trainer import Trainer


def sweep(
    trainer: Trainer,
    batches: Iterable[Batch],
    lrs: np.ndarray,
    smoothing: float,
    stop_factor: float,
) -> pd.DataFrame:
    """One training step on each batch at each of `lrs` in turn: a table of `lr,loss,smoothed_loss`, one row a step.

    `smoothed_loss` is an exponential moving average in which the newest loss weighs `smoothing`, corrected for its
    start. The sweep ends after the last rate, or once the loss is not finite or its average passes `stop_factor` times
    its lowest (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; the stop is fastai's). The average
    is not asked before it holds 1 / `smoothing` losses: the first few may rise, as under Adam's first steps.
    """
    rows, average = [], 0.0
    for number, (lr, batch) in enumerate(zip(lrs, batches, strict=False), start=1):
        loss = trainer.step(batch, lr)[0].item()
        if not np.isfinite(loss):
            break
        average += smoothing * (loss - average)
        rows.append((lr, loss, average / (1 - (1 - smoothing) ** number)))
        is_settled = number * smoothing >= 1
        if is_settled and rows[-1][-1] > stop_factor * min(smoothed for _, _, smoothed in rows):
            break
    return pd.DataFrame(rows, columns=["lr", "loss", "smoothed_loss"])


def suggest(curve: pd.DataFrame) -> dict[str, float]:
    """`lr_max` and `lr_min` by the rule "bottom of the valley" on a curve as `sweep` makes it.

    `lr_max` is the rate at which the smoothed loss is lowest: beyond it the loss rises, and since the average lags, the
    raw loss has just stopped falling there. `lr_min` is the first rate at which the smoothed loss has made a fifth of
    its fall from its top to that bottom: below it training hardly moves. Both are rates of the sweep. Nothing is
    suggested, {}, when the loss falls nowhere.
    """
    smoothed = curve["smoothed_loss"].to_numpy()
    bottom = int(np.argmin(smoothed)) if len(smoothed) else 0
    if bottom == 0:
        return {}
    top = int(np.argmax(smoothed[:bottom]))  # the first average, of one loss, may lie low by chance
    fifth = smoothed[top] - (smoothed[top] - smoothed[bottom]) / 5
    start = top + int(np.argmax(smoothed[top : bottom + 1] <= fifth))
    return {"lr_max": float(curve["lr"][bottom]), "lr_min": float(curve["lr"][start])}
