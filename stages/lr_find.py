"""Find the learning rate: a range test with the network, images and optimizer of the training.

It trains on all images of a batch, because a filter would pick other images at each step and so change the loss.
Writes the curve, the rates that it suggests for `lr_max: find` and `lr_min: find`, and a picture of both.
"""

from cifar.system.stage import start_stage

start_stage(__name__)

import sys
from itertools import count

from cifar.config.fingerprint import refuse_other_inputs
from cifar.config.params import load_params
from cifar.config.schema import NoAverage, NoFilter
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.data.splits import hold_out, load_classes, load_split, load_statistics
from cifar.results.charts import draw_range_test
from cifar.system.device import prepare
from cifar.system.files import write_csv, write_json
from cifar.system.launch import launch
from cifar.system.processes import leave_to_first
from cifar.system.progress import progress
from cifar.system.stage import run
from cifar.training.range_test import at_the_ends, suggest, sweep
from cifar.training.schedules import exponential
from cifar.training.shards import check_shards
from cifar.training.trainer import TrainerSpec, build_trainer


def main() -> None:
    params = load_params("lr_find")
    launch(params.shards)
    test = params.lr_find
    prepare(params.deterministic)
    train, classes = load_split("train"), load_classes()
    train = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    check_shards(params.shards, len(train.labels), params.batch_size)
    statistics = load_statistics()
    refuse_other_inputs("lr_find", params.values())
    size = train.images.shape[1]
    policy = build_policy(params.augment, statistics.mean, size)

    spec = TrainerSpec(
        model=params.model, optimizer=params.optimizer, loss=params.loss,
        average=NoAverage(name="none"), filter=NoFilter(name="none"),
        regularise=params.regularise, bias_lr_factor=params.bias_lr_factor, l1=params.l1,
        steps=test.steps, precision=params.precision, compile=False, shards=params.shards, seed=params.seed,
        classes=len(classes),
    )  # fmt: skip
    trainer = build_trainer(spec, statistics, train.images)
    batches_of = feed(train, policy, trainer.device, batch_size=params.batch_size, seed=params.seed)
    endless = (batch for epoch in count() for batch in batches_of(epoch))
    batches = progress(endless, test.steps, "range test", "steps")
    lrs = exponential(test.steps, test.lr_start, test.lr_end)
    curve = sweep(trainer, batches, lrs, smoothing=test.smoothing, stop_factor=test.stop_factor)
    leave_to_first()
    suggestion = suggest(curve)
    warning = at_the_ends(suggestion, lrs)

    curve["suggestion"] = [", ".join(name for name, rate in suggestion.items() if rate == lr) for lr in curve["lr"]]
    write_csv("plots/lr_find/curve.csv", curve)
    draw_range_test("plots/lr_find/curve.png", curve, suggestion, warning)
    write_json("metrics/lr_find.json", suggestion | {"steps": len(curve)})
    rates = ", ".join(f"{name} {lr:.3g}" for name, lr in suggestion.items())
    print(f"range test: {len(curve)} steps; {rates or 'no suggestion, because the loss never falls'}")
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    print("written: metrics/lr_find.json, plots/lr_find/curve.png, curve.csv")


if __name__ == "__main__":
    run(main)
