"""The loop over the epochs: train, validate, write the curves, keep a checkpoint."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from cifar.data.splits import Batch, Split
from cifar.nn.inference import predict
from cifar.results.scores import accuracy, cross_entropy
from cifar.system.errors import is_out_of_memory
from cifar.system.files import write_csv
from cifar.system.processes import is_first
from cifar.system.progress import progress
from cifar.training.checkpoint import Checkpoints
from cifar.training.compiling import compile_seconds
from cifar.training.hardest import Filter
from cifar.training.schedules import Plan
from cifar.training.trainer import Step, Trainer, train_epoch

Row = dict[str, float]  # an epoch of the history, by column


@dataclass(kw_only=True)
class Record:
    """The results of a training so far, including the epochs before an interruption."""

    history: list[Row] = field(default_factory=list)  # a row an epoch
    best_weights: dict[str, Tensor] | None = None  # with `select: best` those after the best epoch, on the CPU
    seconds: float = 0.0  # of training and validation, without those of compiling

    @property
    def val_accuracies(self) -> list[float]:
        return [row["val_accuracy"] for row in self.history]

    @property
    def best_epoch(self) -> int:
        """The number, from 0, of the epoch with the best validation accuracy, the first of equals."""
        return int(np.argmax(self.val_accuracies))


@dataclass(frozen=True, kw_only=True)
class LoopSpec:
    """What an epoch works on, and how it is scored."""

    train: Split
    val: Split
    batches: Callable[[int], Iterable[Batch]]  # of an epoch, counted from 0
    schedule: Callable[[Sequence[float]], Plan]  # from the validation accuracies of the finished epochs
    train_scores: str  # `running`, or `eval`: see `train_one_epoch`
    select: str  # which weights to keep: `last`, or `best`


def fit(trainer: Trainer, image_filter: Filter | None, spec: LoopSpec, checkpoints: Checkpoints) -> Record:
    """Train from the newest checkpoint, or from the start, to the end of the schedule.

    After each epoch the history and the schedule are written to plots/train/, and a checkpoint is saved.
    """
    record = resume(checkpoints, trainer, image_filter)
    plan = spec.schedule(record.val_accuracies)
    write_curves(record.history, plan)
    epochs, images = len(plan.lrs), len(spec.train.labels)
    with progress(None, epochs * images, "train", "images", initial=len(record.history) * images) as bar:
        for epoch in range(len(record.history), epochs):
            started = time.monotonic() - compile_seconds()
            record.history.append(train_one_epoch(trainer, image_filter, spec, epoch, plan=plan, bar=bar))
            if spec.select == "best" and record.best_epoch == epoch:
                record.best_weights = {name: value.cpu().clone() for name, value in trainer.result.state_dict().items()}
            plan = spec.schedule(record.val_accuracies)
            write_curves(record.history, plan)
            seconds = time.monotonic() - compile_seconds() - started
            record.seconds += seconds
            save(checkpoints, trainer, image_filter, record)
            bar.write(epoch_line(record.history[-1], epochs, images, seconds))
    print(total_line(record.seconds), flush=True)
    if compiling := compile_seconds():
        print(f"compiling took another {compiling:.0f} s", flush=True)
    return record


def train_one_epoch(
    trainer: Trainer, image_filter: Filter | None, spec: LoopSpec, epoch: int, *, plan: Plan, bar: tqdm
) -> Row:
    """Train for an epoch, counted from 0, and validate: the epoch's row of the history.

    The training scores are those of the steps (`running`: augmented and filtered images, changing weights), or of a
    pass over the training images in eval mode (`eval`).
    """
    trainer.network.begin_epoch(epoch)
    lrs, momenta, batches = plan.lrs[epoch], plan.momenta[epoch], spec.batches(epoch)
    if image_filter:
        batches = image_filter.narrow(epoch, batches, lrs, momenta)
    steps = train_epoch(trainer, batches, lrs, momenta, first_step=epoch * len(lrs))
    steps = list(watch(steps, bar, images=len(spec.train.labels), count=len(lrs)))
    scores = summarise(steps) if spec.train_scores == "running" else measure(trainer, spec.train, "train")
    rest = {"lr": float(lrs[-1]), "l1_penalty": round(steps[-1].penalty, 6)}
    return {"epoch": epoch + 1} | scores | measure(trainer, spec.val, "val") | rest


def resume(checkpoints: Checkpoints, trainer: Trainer, image_filter: Filter | None) -> Record:
    """Restore trainer and filter from the newest checkpoint and return its record; without one, an empty record."""
    state = checkpoints.load()
    if state is None:
        return Record()
    try:
        trainer.restore(state)
        if image_filter:
            image_filter.proxy.restore(state["filter"])
        record = Record(history=state["history"], best_weights=state["best"], seconds=state["seconds"])
        epochs = len(record.val_accuracies)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise checkpoints.refuse() from None
    print(f"continuing after epoch {epochs}", flush=True)
    return record


def save(checkpoints: Checkpoints, trainer: Trainer, image_filter: Filter | None, record: Record) -> None:
    """Save a checkpoint for `resume`."""
    state = trainer.state() | {"filter": image_filter and image_filter.proxy.state()}
    state |= {"history": record.history, "best": record.best_weights, "seconds": record.seconds}
    checkpoints.save(len(record.history), state)


def watch(steps: Iterable[Step], bar: tqdm, images: int, count: int) -> Iterator[Step]:
    """The same `count` steps, shown on the progress bar, which they move by `images` altogether.

    A step moves it by its share, because with an image filter a step has fewer images than its batch.
    """
    for number, step in enumerate(steps):
        scores = {"loss": f"{step.objective:.3f}", "accuracy": f"{step.correct / step.images:.3f}"}
        bar.set_postfix(refresh=False, **scores, lr=f"{step.lr:.3g}")
        bar.update((number + 1) * images // count - number * images // count)
        yield step


def summarise(steps: list[Step]) -> Row:
    """The training loss (cross entropy) and accuracy over an epoch's steps."""
    images = sum(step.images for step in steps)
    loss = sum(step.loss for step in steps) / images
    return {"train_loss": round(loss, 6), "train_accuracy": sum(step.correct for step in steps) / images}


def measure(trainer: Trainer, split: Split, name: str) -> Row:
    """Loss and accuracy on a split's images, without augmentation, in eval mode, with the weights as they are now."""
    label = {"train": "score the training images", "val": "validate"}[name]
    logits = predict(trainer.result, split.images, trainer.statistics, precision=trainer.precision, label=label)
    loss = round(cross_entropy(logits, split.labels), 6)
    return {f"{name}_loss": loss, f"{name}_accuracy": accuracy(logits, split.labels)}


def write_curves(history: list[Row], plan: Plan) -> None:
    """Write the learning rate and momentum of every step, and after the first epoch the history."""
    if not is_first():
        return
    lrs, momenta = (rates.ravel().round(12) for rates in plan)
    write_csv("plots/train/schedule.csv", pd.DataFrame({"step": range(lrs.size), "lr": lrs, "momentum": momenta}))
    if history:
        write_csv("plots/train/history.csv", pd.DataFrame(history))


def total_line(seconds: float) -> str:
    """The line after the last epoch; `python -m recipes page --log` reads it, and the lines of the epochs."""
    return f"training and validation took {seconds:.0f} s"


def epoch_line(row: Row, epochs: int, images: int, seconds: float) -> str:
    """A line about an epoch, with the speed and the time left.

    The speed is the number of training images, also those that a filter leaves out, over the seconds of training and
    validation.
    """
    return (
        f"epoch {row['epoch']:2d}/{epochs}  train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.3f} accuracy {row['val_accuracy']:.4f}  lr {row['lr']:.3g}  "
        f"{images / seconds:.0f} img/s  {(epochs - row['epoch']) * seconds / 60:.1f} min left"
    )
