"""A recipe's test accuracy, and the time of its training, over several seeds: complete runs, one after another.

The images are those of CIFAR10_DIR, else of data/raw/; without either they are downloaded for each seed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pipeline import fresh_project
from benchmarks.report import mean_and_deviation, params_path, report
from cifar.system.files import read_json
from recipes.__main__ import recipe_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["default", *recipe_names()]
    parser.add_argument("recipe", choices=names, help="default is params.yaml, the others are in recipes/")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="(default: 0 1 2 3 4)")
    text = "change a param of the recipe, as in `dvc exp run -S`; may be repeated"
    parser.add_argument("-S", dest="changes", metavar="KEY=VALUE", action="append", default=[], help=text)
    arguments = parser.parse_args()

    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        runs.append({"seed": seed} | run_seed(arguments.recipe, [*arguments.changes, f"seed={seed}"]))
        script = Path(__file__).with_stem(f"seeds-{arguments.recipe}")
        report(script, with_mean(runs), recipe=arguments.recipe, changes=arguments.changes)  # after each: it takes long


def with_mean(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, and when there are several what they come to."""
    if len(runs) == 1:
        return list(runs)
    return [*runs, {name: mean_and_deviation([run[name] for run in runs]) for name in runs[0]} | {"seed": "all"}]


def run_seed(recipe: str, changes: Sequence[str]) -> dict[str, float]:
    """The recipe with `changes` from the data to the evaluation: accuracies; time and memory of `train`."""
    with fresh_project(params_path(recipe), changes) as project:
        project.repro("evaluate")
        found = read_json(project.folder / "metrics/evaluate.json")
        trained = next(stage for stage in project.stages() if stage["stage"] == "train")
    figures = {name: found[name] for name in ("accuracy", "tta_accuracy") if name in found}
    return figures | {"minutes": trained["seconds"] / 60, "peak_mib": trained["peak_mib"]}


if __name__ == "__main__":
    main()
