"""Train the network.

Reads the training images, their statistics and the range test's suggestion; writes the weights with all that is needed
to use them, the history of the epochs (rewritten after each: a live plot), and the learning rate of every step.
An interrupted run carries on after its last whole epoch.
"""

from cifar.system.process import start_stage

start_stage(__name__)

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torchinfo
from torch import Tensor, nn
from tqdm import tqdm

from cifar.config.params import Declared, load_params
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.data.splits import Batch, Split, hold_out, load_classes, load_split, load_statistics
from cifar.nn.convolutions import unfused
from cifar.nn.inference import predict
from cifar.nn.saved import FOLDER, Model, save_model
from cifar.results.scores import accuracy, cross_entropy
from cifar.system.device import environment, prepare
from cifar.system.files import read_json, write_csv, write_json, write_text
from cifar.system.process import InputError, progress, run
from cifar.training.averaging import build_average
from cifar.training.checkpoint import Checkpoints, fingerprint
from cifar.training.compiling import compile_seconds
from cifar.training.hardest import Filter, build_filter
from cifar.training.schedules import Plan, plan
from cifar.training.trainer import Step, Trainer, build_trainer, train_epoch


def main() -> None:
    params = load_params("train")
    prepare(params.deterministic)
    train, val = load_images(params)
    classes = load_classes()
    mean, std = load_statistics()
    policy = build_policy([(step.name, step.arguments) for step in params.augment], mean)
    sections = {
        "model": params.model, "optimizer": params.optimizer, "loss": params.loss,
        "average": params.average, "filter": params.filter,
    }  # fmt: skip
    specs = {name: section.model_dump() for name, section in sections.items()}
    regularisation = params.regularise, params.bias_lr_factor, params.l1
    shape = params.epochs, -(-len(train.labels) // params.batch_size)  # epochs, steps an epoch
    arguments = specs, *regularisation, mean, std, params.precision, params.seed, train.images, params.compile
    trainer, image_filter = build_trainer(*arguments), build_filter(*arguments)
    average = build_average(trainer.network, specs["average"], steps=math.prod(shape))
    trainer = trainer._replace(average=average)
    machine = environment(trainer.device, trainer.precision, params.deterministic)
    batches = feed(train, policy, trainer.device, params.batch_size, params.seed)
    lr_min, lr_max = learning_rates(params)
    schedule = partial(plan, params.schedule.model_dump(), shape, lr_min, lr_max, params.optimizer.momentum)

    checkpoints = Checkpoints(f"train-{fingerprint('train', params.values())}", machine, carries_on())
    print(f"{len(train.labels)} images, {machine['precision']}, {machine['threads']} threads", flush=True)
    history, best, seconds = fit(params, trainer, image_filter, train, val, batches, schedule, checkpoints)
    print(f"trained, with validation, in {seconds:.0f} s", flush=True)
    if compiling := compile_seconds():
        print(f"compiling took {compiling:.0f} s, which are not among these", flush=True)
    network = trainer.result.cpu()
    if params.select == "best":
        network.load_state_dict(best)

    write_text(FOLDER / "summary.txt", summary(network))
    save_model(Model(network, mean, std, classes), specs["model"], machine, checkpoints.trained_on)
    chosen = history[best_epoch(history) if params.select == "best" else -1]
    results = {name: value for name, value in chosen.items() if name != "lr"} | {"lr_min": lr_min, "lr_max": lr_max}
    parameters = sum(weights.numel() for weights in network.parameters())
    counts = {"parameters": parameters, "train_images": len(train.labels), "val_images": len(val.labels)}
    write_json("metrics/train.json", results | counts)
    checkpoints.discard()


def fit(
    params: Declared,
    trainer: Trainer,
    image_filter: Filter | None,
    train: Split,
    val: Split,
    batches: Callable[[int], Iterable[Batch]],
    schedule: Callable[[list[float]], Plan],
    checkpoints: Checkpoints,
) -> tuple[list[dict], dict[str, Tensor] | None, float]:
    """Train from the last checkpoint to the end: the history, a row an epoch; with `select: best` its weights; seconds.

    These are of all epochs in the history, those before an interruption too, without those of compiling.
    `batches` gives those of an epoch, of which `image_filter` may leave a part; `schedule` the plan from the validation
    accuracies of the epochs that are over.
    """
    history, best, seconds = resume(checkpoints, trainer, image_filter)
    planned = write_progress(history, schedule)
    with progress(None, params.epochs * len(train.labels), "train", "img", unit_scale=True) as bar:
        bar.update(len(history) * len(train.labels))
        for epoch in range(len(history), params.epochs):
            started = time.monotonic() - compile_seconds()
            trainer.network.begin_epoch(epoch)
            lrs, momenta, chosen = planned.lrs[epoch], planned.momenta[epoch], batches(epoch)
            if image_filter:
                chosen = image_filter.narrow(epoch, chosen, lrs, momenta)
            passing = train_epoch(trainer, chosen, lrs, momenta, first_step=epoch * len(lrs))
            steps = list(watch(passing, bar, len(train.labels) / len(lrs)))
            trained = summarise(steps) if params.train_scores == "running" else measure(trainer, train, "train")
            rest = {"lr": float(lrs[-1]), "l1_penalty": round(steps[-1].penalty, 6)}
            history.append({"epoch": epoch + 1} | trained | measure(trainer, val, "val") | rest)
            if params.select == "best" and best_epoch(history) == epoch:
                best = {name: value.cpu().clone() for name, value in trainer.result.state_dict().items()}
            planned = write_progress(history, schedule)
            took = time.monotonic() - compile_seconds() - started
            seconds += took
            state = trainer.state() | {"filter": image_filter and image_filter.proxy.state()}
            checkpoints.save(epoch + 1, state | {"history": history, "best": best, "seconds": seconds})
            bar.write(epoch_line(history[-1], params.epochs, len(train.labels), took))
    return history, best, seconds


def load_images(params: Declared) -> tuple[Split, Split]:
    """What to train on and what to validate on: held-out images, or with val_size 0 the test images."""
    everything = load_split("train")
    if params.val_size == 0:
        return everything, load_split("test")
    train, val = hold_out(everything.labels, params.val_size, params.seed)
    return everything.take(train), everything.take(val)


def learning_rates(params: Declared) -> tuple[float, float]:
    """lr_min and lr_max: a number as it is, `find` from the range test."""
    found = read_json("metrics/lr_find.json")
    if "find" in (params.lr_min, params.lr_max) and "lr_max" not in found:
        raise InputError(
            "the range test suggests no learning rate (see plots/lr_find/curve.png); set numbers for lr_max and lr_min"
        )
    lr_min = found.get("lr_min") if params.lr_min == "find" else params.lr_min
    lr_max = found.get("lr_max") if params.lr_max == "find" else params.lr_max
    if not all(isinstance(lr, int | float) and lr > 0 for lr in (lr_min, lr_max)):
        raise InputError(f"metrics/lr_find.json suggests lr_max {lr_max!r}, lr_min {lr_min!r}; run `dvc repro lr_find`")
    if lr_min > lr_max and params.schedule.name != "constant":
        raise InputError(f"lr_min is {lr_min:g}, above lr_max, which is {lr_max:g}; set lr_min lower, or both to find")
    return lr_min, lr_max


def carries_on() -> bool:
    """Whether epochs of the same training that ran in another environment count: `CARRY_ON=1`."""
    value = os.environ.get("CARRY_ON", "")
    if value not in ("", "0", "1"):
        raise InputError(f"CARRY_ON is {value!r}; set it to 1 to carry on from another machine's epochs, or unset it")
    return value == "1"


def resume(
    checkpoints: Checkpoints, trainer: Trainer, image_filter: Filter | None
) -> tuple[list[dict], dict[str, Tensor] | None, float]:
    """The history so far, the best epoch's weights and the seconds, all that trains as it was then; or a start."""
    state = checkpoints.load()
    if state is None:
        return [], None, 0.0
    trainer.restore(state)
    if image_filter:
        image_filter.proxy.restore(state["filter"])
    print(f"carrying on after epoch {len(state['history'])}", flush=True)
    return state["history"], state["best"], state["seconds"]


def watch(steps: Iterable[Step], bar: tqdm, images: float) -> Iterator[Step]:
    """The same steps, shown on the progress bar as they pass; `images` is how many one goes through, on average."""
    for step in steps:
        bar.update(images)
        bar.set_postfix(loss=f"{step.objective:.3f}", accuracy=f"{step.correct / step.images:.3f}", lr=f"{step.lr:.3g}")
        yield step


def summarise(steps: list[Step]) -> dict[str, float]:
    """The epoch as it was trained on: images augmented and filtered, weights of the moment; plain cross entropy."""
    images = sum(step.images for step in steps)
    loss = sum(step.loss for step in steps) / images
    return {"train_loss": round(loss, 6), "train_accuracy": sum(step.correct for step in steps) / images}


def measure(trainer: Trainer, split: Split, name: str) -> dict[str, float]:
    """Loss and accuracy on a split's own images, in eval mode, with the weights as they are now."""
    logits = predict(trainer.result, split.images, trainer.mean, trainer.std, trainer.precision)
    loss = round(cross_entropy(logits, split.labels), 6)
    return {f"{name}_loss": loss, f"{name}_accuracy": accuracy(logits, split.labels)}


def summary(network: nn.Module) -> str:
    """The network's layers, with the shapes of their outputs, parameters and multiplications for one image."""
    found = torchinfo.summary(unfused(network), (1, 3, 32, 32), depth=4, device="cpu", verbose=0)
    return f"{found}\n".replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")  # torchinfo 1.8.0


def best_epoch(history: list[dict]) -> int:
    """The number, from 0, of the epoch with the best validation accuracy, the first of equals."""
    return int(np.argmax([row["val_accuracy"] for row in history]))


def write_progress(history: list[dict], schedule: Callable[[list[float]], Plan]) -> Plan:
    """Write the history so far, and the plan as it stands after it, which is returned."""
    planned = schedule([row["val_accuracy"] for row in history])
    lrs, momenta = (rates.ravel().round(12) for rates in planned)
    write_csv("plots/train/schedule.csv", pd.DataFrame({"step": range(lrs.size), "lr": lrs, "momentum": momenta}))
    if history:
        write_csv("plots/train/history.csv", pd.DataFrame(history))
    return planned


def epoch_line(row: dict, epochs: int, images: int, seconds: float) -> str:
    """An epoch for a person to read, with its speed and the time left; images that a filter leaves out count too."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}  train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.3f} accuracy {row['val_accuracy']:.4f}  lr {row['lr']:.3g}  "
        f"{images / seconds:.0f} img/s  {(epochs - row['epoch']) * seconds / 60:.1f} min left"
    )


if __name__ == "__main__":
    run(main)
