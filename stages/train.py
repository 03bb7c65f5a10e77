"""Train the network.

Reads the training images, their statistics and the range test's rates. Writes the weights, the history of the epochs
(after each epoch) and the learning rate of every step. An interrupted run continues after its last complete epoch.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

import math
from functools import partial

from cifar.config.params import load_params
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.data.splits import load_classes, load_statistics, load_train_and_val
from cifar.nn.saved import FOLDER, Model, save_model
from cifar.nn.summary import summary
from cifar.system.device import environment, prepare
from cifar.system.files import write_json, write_text
from cifar.system.launch import launch
from cifar.system.processes import leave_to_first
from cifar.system.stage import run
from cifar.training.checkpoint import open_checkpoints
from cifar.training.hardest import build_filter
from cifar.training.loop import LoopSpec, fit
from cifar.training.range_test import choose_rates
from cifar.training.schedules import plan
from cifar.training.shards import check_shards
from cifar.training.trainer import TrainerSpec, build_trainer


def main() -> None:
    params = load_params("train")
    launch(params.shards)
    prepare(params.deterministic)
    train, val = load_train_and_val(params.val_size, params.seed)
    check_shards(params.shards, len(train.labels), params.batch_size, share=getattr(params.filter, "share", 1.0))
    classes, statistics, size = load_classes(), load_statistics(), train.images.shape[1]
    policy = build_policy(params.augment, statistics.mean, size)

    epoch_steps = math.ceil(len(train.labels) / params.batch_size)
    spec = TrainerSpec(
        model=params.model, optimizer=params.optimizer, loss=params.loss, average=params.average, filter=params.filter,
        regularise=params.regularise, bias_lr_factor=params.bias_lr_factor, l1=params.l1, shards=params.shards,
        steps=params.epochs * epoch_steps, precision=params.precision, compile=params.compile, seed=params.seed,
        classes=len(classes),
    )  # fmt: skip
    trainer = build_trainer(spec, statistics, train.images)
    image_filter = build_filter(spec, statistics, train.images)
    batches = feed(train, policy, trainer.device, batch_size=params.batch_size, seed=params.seed)
    rates = choose_rates(params.lr_min, params.lr_max, params.schedule)
    schedule = partial(plan, params.schedule, (params.epochs, epoch_steps), momentum=params.optimizer.momentum, **rates)

    machine = environment(trainer.device, trainer.precision, params.deterministic)
    checkpoints = open_checkpoints(params.values(), machine)
    print(f"{len(train.labels)} images, {machine['precision']}, {machine['threads']} threads", flush=True)
    loop = LoopSpec(
        train=train, val=val, batches=batches, schedule=schedule, train_scores=params.train_scores, select=params.select
    )
    record = fit(trainer, image_filter, loop, checkpoints)
    leave_to_first()

    network, scores = trainer.result.cpu(), record.history[-1]
    if params.select == "best":
        network.load_state_dict(record.best_weights)
        scores = record.history[record.best_epoch]
    write_text(FOLDER / "summary.txt", summary(network, size))
    save_model(Model(network, statistics, classes, size), params.model, machine, trained_on=checkpoints.trained_on)
    parameters = sum(weights.numel() for weights in network.parameters())
    counts = {"parameters": parameters, "train_images": len(train.labels), "val_images": len(val.labels)}
    scores = {name: value for name, value in scores.items() if name != "lr"}
    write_json("metrics/train.json", scores | rates | counts)
    checkpoints.discard()
    print(f"written: {FOLDER}/model.safetensors, model.json, summary.txt, metrics/train.json, plots/train/", flush=True)


if __name__ == "__main__":
    run(main)
