"""Find the learning rate: a range test on the very network, images and optimizer that train will use.

All images of a batch count, for a filter would change them from step to step, and the loss with them.
Writes the curve, the rates that it suggests for `lr_max: find` and `lr_min: find`, and a picture of both.
"""

from cifar.system.process import start_stage

start_stage(__name__)

from itertools import count

from cifar.config.params import load_params
from cifar.data.batches import feed
from cifar.data.policy import build_policy
from cifar.data.splits import hold_out, load_split, load_statistics
from cifar.results.charts import draw_range_test
from cifar.system.device import prepare
from cifar.system.files import write_csv, write_json
from cifar.system.process import progress, run
from cifar.training.lr_sweep import suggest, sweep
from cifar.training.schedules import exponential
from cifar.training.trainer import build_trainer


def main() -> None:
    params = load_params("lr_find")
    prepare(params.deterministic)
    train = load_split("train")
    train = train.take(hold_out(train.labels, params.val_size, params.seed)[0])
    mean, std = load_statistics()
    policy = build_policy([(step.name, step.arguments) for step in params.augment], mean)
    sections = {"model": params.model, "optimizer": params.optimizer, "loss": params.loss}
    specs = {name: section.model_dump() for name, section in sections.items()}
    regularisation = params.regularise, params.bias_lr_factor, params.l1
    trainer = build_trainer(specs, *regularisation, mean, std, params.precision, params.seed, train.images)

    test = params.lr_find
    lrs = exponential(test.steps, test.lr_start, test.lr_end)
    batches_of = feed(train, policy, trainer.device, params.batch_size, params.seed)
    endless = (batch for epoch in count() for batch in batches_of(epoch))
    batches = progress(endless, test.steps, "range test", "step")
    curve = sweep(trainer, batches, lrs, test.smoothing, test.stop_factor)
    suggestion = suggest(curve)

    curve["suggestion"] = ""
    for name, lr in suggestion.items():
        curve.loc[(curve["lr"] - lr).abs().idxmin(), "suggestion"] = name
    write_csv("plots/lr_find/curve.csv", curve)
    draw_range_test("plots/lr_find/curve.png", curve, suggestion)
    write_json("metrics/lr_find.json", suggestion | {"steps": len(curve)})
    found = ", ".join(f"{name} {lr:.3g}" for name, lr in suggestion.items())
    print(f"range test: {len(curve)} steps; {found or 'no suggestion, for the loss falls nowhere'}")


if __name__ == "__main__":
    run(main)
