"""Train the network in one cycle.

Reads the training images, their statistics and the range test's suggestion; writes the weights with all that is needed
to use them, the history of the epochs (rewritten after each: a live plot), and the learning rate of every step.
An interrupted run carries on after its last whole epoch.
"""

import time

import numpy as np
import pandas as pd
import torchinfo
from tqdm import tqdm

from cifar.augment import build_policy
from cifar.checkpoint import Checkpoints, fingerprint
from cifar.console import InputError, progress, run
from cifar.data import Split, hold_out, load_classes, load_split, load_statistics
from cifar.device import environment, keep_memory
from cifar.engine import Step, Trainer, build_trainer, train_epoch, training_batches
from cifar.files import read_json, write_csv, write_json, write_text
from cifar.inference import predict
from cifar.models import FOLDER, Model, save_model
from cifar.params import Declared, load_params
from cifar.schedules import one_cycle, triangular
from cifar.scores import accuracy, cross_entropy


def main() -> None:
    keep_memory()
    params = load_params("train")
    train, val = load_images(params)
    classes = load_classes()
    mean, std = load_statistics()
    policy = build_policy([(step.name, step.arguments) for step in params.augment], mean, params.seed)
    network_spec, optimizer_spec = params.model.model_dump(), params.optimizer.model_dump()
    trainer = build_trainer(
        network_spec, optimizer_spec, mean, std, params.label_smoothing, params.precision, params.seed
    )
    machine = environment(trainer.device, trainer.precision)
    lr_min, lr_max = learning_rates(params)
    lrs = plan(params, len(train.labels), lr_min, lr_max)  # (epochs, steps)
    write_csv("plots/train/schedule.csv", pd.DataFrame({"step": range(lrs.size), "lr": lrs.ravel().round(8)}))

    checkpoints = Checkpoints(f"train-{fingerprint('train', {'params': params.values(), 'machine': machine})}")
    history = resume(checkpoints, trainer)
    print(f"{len(train.labels)} images, {machine['precision']}, {machine['threads']} threads", flush=True)
    with progress(None, params.epochs * len(train.labels), "train", "img", unit_scale=True) as bar:
        bar.update(len(history) * len(train.labels))
        for epoch in range(len(history), params.epochs):
            started = time.monotonic()
            batches = training_batches(train, policy, params.batch_size, params.seed, epoch)
            steps = watch(train_epoch(trainer, batches, lrs[epoch], first_step=epoch * lrs.shape[1]), bar)
            row = {"epoch": epoch + 1} | summarise(list(steps)) | validate(trainer, val) | {"lr": float(lrs[epoch, -1])}
            history.append(row)
            write_csv("plots/train/history.csv", pd.DataFrame(history))
            checkpoints.save(epoch + 1, trainer.state() | {"history": history})
            bar.write(epoch_line(row, params.epochs, len(train.labels), time.monotonic() - started))

    network = trainer.network.cpu()
    write_csv("plots/train/history.csv", pd.DataFrame(history))
    write_text(FOLDER / "summary.txt", f"{torchinfo.summary(network, (1, 3, 32, 32), verbose=0)}\n")
    save_model(Model(network, mean, std, classes), network_spec, machine)
    results = {name: history[-1][name] for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    parameters = sum(weights.numel() for weights in network.parameters())
    counts = {"parameters": parameters, "train_images": len(train.labels), "val_images": len(val.labels)}
    write_json("metrics/train.json", results | {"lr_min": lr_min, "lr_max": lr_max} | counts)
    checkpoints.discard()


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
    lr_min = found["lr_min"] if params.lr_min == "find" else params.lr_min
    lr_max = found["lr_max"] if params.lr_max == "find" else params.lr_max
    if lr_min > lr_max:
        raise InputError(f"lr_min is {lr_min:g}, above lr_max, which is {lr_max:g}; set lr_min lower, or both to find")
    return lr_min, lr_max


def plan(params: Declared, images: int, lr_min: float, lr_max: float) -> np.ndarray:
    """The learning rate of every step (epochs, steps an epoch)."""
    epoch_steps = -(-images // params.batch_size)
    steps = params.epochs * epoch_steps
    if params.schedule.name == "triangular":
        lrs = triangular(steps, params.schedule.half_cycle, lr_min, lr_max)
    else:
        lrs = one_cycle(steps, round(params.schedule.peak_epoch * epoch_steps), lr_min, lr_max)
    return lrs.reshape(params.epochs, epoch_steps)


def resume(checkpoints: Checkpoints, trainer: Trainer) -> list[dict]:
    """The history so far, with the trainer's state as it was then; empty for a fresh start."""
    state = checkpoints.load()
    if state is None:
        return []
    trainer.restore(state)
    print(f"carrying on after epoch {len(state['history'])}", flush=True)
    return state["history"]


def watch(steps, bar: tqdm):
    """The same steps, shown on the progress bar as they pass."""
    for step in steps:
        bar.update(step.images)
        bar.set_postfix(loss=f"{step.objective:.3f}", accuracy=f"{step.correct / step.images:.3f}", lr=f"{step.lr:.3g}")
        yield step


def summarise(steps: list[Step]) -> dict[str, float]:
    """The epoch as it was trained on: augmented images, the weights of the moment; plain cross entropy."""
    images = sum(step.images for step in steps)
    loss = sum(step.loss for step in steps) / images
    return {"train_loss": round(loss, 6), "train_accuracy": sum(step.correct for step in steps) / images}


def validate(trainer: Trainer, val: Split) -> dict[str, float]:
    logits = predict(trainer.network, val.images, trainer.mean, trainer.std, trainer.precision)
    return {"val_loss": cross_entropy(logits, val.labels), "val_accuracy": accuracy(logits, val.labels)}


def epoch_line(row: dict, epochs: int, images: int, seconds: float) -> str:
    """An epoch for a person to read, with its speed and the time left."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}  train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.4f}  "
        f"val loss {row['val_loss']:.3f} accuracy {row['val_accuracy']:.4f}  lr {row['lr']:.3g}  "
        f"{images / seconds:.0f} img/s  {(epochs - row['epoch']) * seconds / 60:.1f} min left"
    )


if __name__ == "__main__":
    run(main)
