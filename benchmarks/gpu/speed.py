"""Training images a second of each network: `python -m benchmarks.gpu.speed KIND` prints a JSON line a recipe.

`deterministic` trains as the recipes say, and in turns without deterministic kernels: what these cost. `compiled`
trains with `compile: true`, and tells the seconds of compiling apart. A filter and an average of the weights are left
out; the augmentation is the recipe's.
"""

import argparse
import json
from typing import Any, NamedTuple

from benchmarks.gpu.runs import params_for
from benchmarks.report import spread
from benchmarks.training import images_a_second, training_of
from cifar.config.params import check_params
from cifar.config.schema import Params
from cifar.system.device import prepare
from cifar.system.errors import one_line
from cifar.training.compiling import compile_seconds

RECIPES = "default", "fast", "best", "eva5-s9", "resnet18-layernorm", "eva4-s8", "eva6-s8"  # eva4-s11 is the default's
KINDS = "deterministic", "compiled"
IMAGES = 50_000  # as many as CIFAR-10 has, less what does not fill a batch


class Plan(NamedTuple):
    images: int  # to train on, about
    turns: int
    steps: int  # in a turn
    warm_up: int  # steps before the first turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--dry-run", action="store_true", help="one step a turn, two recipes, tiny networks")
    arguments = parser.parse_args()
    measure = measure_compiled if arguments.kind == "compiled" else measure_deterministic
    plan = Plan(20, 2, 1, 1) if arguments.dry_run else Plan(IMAGES, turns=5, steps=50, warm_up=20)
    for recipe in ("fast", "best") if arguments.dry_run else RECIPES:
        params = check_params(params_for(recipe, {}, arguments.dry_run), recipe)
        try:
            found = measure(params, plan)
        except Exception as error:  # whatever a GPU says to one network, the next has its turn
            found = {"failed": one_line(error)[:500] or type(error).__name__}
        print(json.dumps({"recipe": recipe, "batch_size": params.batch_size, "steps": plan.steps} | found), flush=True)


def measure_deterministic(params: Params, plan: Plan) -> dict[str, Any]:
    """Images a second with and without deterministic kernels, in turns, and the ratio: what they leave of the speed."""
    trainings, speeds = {}, {True: [], False: []}
    for is_deterministic in speeds:
        prepare(is_deterministic)
        trainings[is_deterministic] = training_of(params, plan.images)
        trainings[is_deterministic](plan.warm_up)
    for _ in range(plan.turns):
        for is_deterministic, found in speeds.items():
            prepare(is_deterministic)
            found.append(images_a_second(trainings[is_deterministic], params.batch_size, plan.steps))
    ratios = [with_it / without for with_it, without in zip(speeds[True], speeds[False], strict=True)]
    return {"deterministic": spread(speeds[True]), "free": spread(speeds[False]), "ratio": spread(ratios)}


def measure_compiled(params: Params, plan: Plan) -> dict[str, Any]:
    """Images a second of the compiled network, with deterministic kernels, and the seconds of compiling it."""
    prepare(deterministic=True)
    before = compile_seconds()
    train = training_of(params.model_copy(update={"compile": True}), plan.images)
    train(plan.warm_up)
    compiling = round(compile_seconds() - before, 2)
    speeds = [images_a_second(train, params.batch_size, plan.steps) for _ in range(plan.turns)]
    return {"compiled": spread(speeds), "compile_seconds": compiling}


if __name__ == "__main__":
    main()
