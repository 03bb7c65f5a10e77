"""Compare recipes, experiments and revisions over several seeds: `python -m recipes compare --help`.

What has not been run is run as a DVC experiment, in a clone under .dvc/tmp/compare that shares this repository's Git
objects and DVC's cache. The workspace does not change, and after an interruption the same command continues.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifar.config.params import check_params, parse_yaml
from cifar.results.comparison import mcnemar, seeds_needed, summarise, verdict, welch
from cifar.results.revisions import experiments, find_commit, git, stages_up_to
from cifar.results.side_by_side import MOST
from cifar.system.errors import InputError
from cifar.system.files import read_arrays, write_text
from recipes import clones
from recipes.dvc_commands import experiment_ref, git_identity, run_dvc
from recipes.values import PARAMS, experiment_name, flatten, recipe_names, recipe_text, values_with

CODE = "stages", "cifar", "dvc.yaml"
METRICS = "metrics/evaluate.json"
PICTURES = "data/images"
PREDICTIONS = "data/predictions.npz"
SPLITS = {"evaluate": "data/dataset/test", "train": "data/dataset/train"}  # by the stage that reads them


class Contender(NamedTuple):
    """One of the things to compare: its name, the commit that holds its code, and the text of its params.yaml."""

    name: str
    commit: str
    params: str


class Plan(NamedTuple):
    """One run of a contender: with this seed, these changes of its params, and so with these `values`."""

    contender: Contender
    seed: int
    changes: tuple[str, ...]
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its experiment, in letters that Git allows: fast-epochs-6-seed-1."""
        return experiment_name(re.sub(r"[^\w.]+", "-", self.contender.name), [*self.changes, f"seed={self.seed}"])

    @property
    def clone(self) -> Path:
        return clones.CLONES / self.contender.commit[:12]


class Run(NamedTuple):
    """The results of a plan: the commit that holds them, and the metrics of `evaluate`."""

    name: str
    commit: str
    seed: int
    metrics: dict[str, float]


def compare(names: Sequence[str], seeds: Sequence[int], changes: Sequence[str], metric: str) -> list[list[Run]]:
    """The runs of each contender, one per seed; missing ones are run as experiments first.

    Raises InputError as soon as it is known that a contender's runs have no such metric, or that two runs with the same
    seed have different test images, or different pictures of your own to train on.
    """
    if len(names) < 2 or len({*names}) < len(names):
        raise InputError("compare needs two different names or more: recipes, experiments or revisions")
    if len({*seeds}) < len(seeds):
        raise InputError("a seed is given twice; list each seed once")
    contenders = [find_contender(name) for name in names]
    plans = {(contender.name, seed): plan(contender, seed, changes) for seed in seeds for contender in contenders}
    for (name, seed), each in plans.items():
        if metric == "tta_accuracy" and each.values.get("test_time_augmentation") == "none":
            raise InputError(f"{name} has no tta_accuracy: its test_time_augmentation is none; choose another --metric")
        refuse_other_data(plans[names[0], seed], each)
    runs = {}
    for (name, seed), each in plans.items():
        runs[name, seed] = find_run(each) or run(each)
        value_of(runs[name, seed], metric)
        refuse_other_images("evaluate", runs[names[0], seed], runs[name, seed])
        if each.values.get("dataset") == "folder":
            refuse_other_images("train", runs[names[0], seed], runs[name, seed])
    for clone in {each.clone for each in plans.values()}:
        clones.delete_unless_needed(clone)
    return [[runs[name, seed] for seed in seeds] for name in names]


def find_contender(name: str) -> Contender:
    """A recipe with the last commit's code, or an experiment or a revision with its own.

    Raises InputError when there is none of that name. A recipe is refused while code is not committed: its results
    could not be reproduced.
    """
    if name in recipe_names():
        changed = git("status", "--porcelain", "--", *CODE).splitlines()
        if changed:
            raise InputError(f"{changed[0][3:]} has uncommitted changes; commit them first")
        return Contender(name, git("rev-parse", "HEAD").strip(), recipe_text(name))
    commit = find_commit(name, f"recipe ({', '.join(recipe_names())})")
    params = git("show", f"{commit}:./{PARAMS}", check=False)
    if not params:
        raise InputError(f"{name} has no {PARAMS}; give a revision of this pipeline")
    return Contender(name, commit, params)


def plan(contender: Contender, seed: int, changes: Sequence[str]) -> Plan:
    """Raises InputError when a change is wrong; params of a revision are for its own code to check."""
    values = values_with(contender.params, [*changes, f"seed={seed}"])
    if contender.name in recipe_names():
        check_params(values, f"recipes/{contender.name}.yaml")
    return Plan(contender, seed, tuple(changes), values)


def refuse_other_data(one: Plan, other: Plan) -> None:
    """Raise InputError if params or committed pictures show, before any training, that the test images differ."""
    a, b, dataset = flatten(one.values), flatten(other.values), one.values.get("dataset")
    for key in ("dataset", "shapes.test") if dataset == "shapes" else ("dataset",):
        if a.get(key) != b.get(key):
            found = f"{key} is {a.get(key)} and {b.get(key)}"
            raise InputError(f"{one.name} and {other.name} have different test images: {found}; use one for both")
    if dataset == "folder" and pictures_at(one.contender.commit) != pictures_at(other.contender.commit):
        raise InputError(f"{one.name} and {other.name} have different pictures in {PICTURES}/; use the same in both")


def refuse_other_images(stage: str, one: Run, other: Run) -> None:
    """Raise InputError if the stage read different images in two runs, by what dvc.lock records.

    Images of another size (`folder.size`) may show the same pictures: there the labels alone are compared.
    """
    a, b = ({dep["path"]: dep for dep in lock_at(run.commit)[stage]["deps"]} for run in (one, other))
    images, labels = f"{SPLITS[stage]}_images.npy", f"{SPLITS[stage]}_labels.npy"
    differ = a[images]["size"] == b[images]["size"] and a[images]["md5"] != b[images]["md5"]
    if differ or a[labels]["md5"] != b[labels]["md5"]:
        what = "evaluated on different test" if stage == "evaluate" else "trained on different"
        raise InputError(f"{one.name} and {other.name} were {what} images; choose other runs")


def find_run(wanted: Plan) -> Run | None:
    """An experiment, or the contender's own commit, whose dvc.lock records the wanted params and code."""
    names = wanted.name, experiment_name(wanted.contender.name, list(wanted.changes))
    candidates = [(name, commit) for name in names for commit in experiments(name)]
    for name, commit in [*candidates, (wanted.contender.name, wanted.contender.commit)]:
        metrics = git("show", f"{commit}:./{METRICS}", check=False)
        if metrics and is_of(lock_at(commit), wanted) and has_same_pictures(commit, wanted):
            return Run(name, commit, wanted.seed, json.loads(metrics))
    return None


@cache
def lock_at(commit: str) -> dict[str, Any]:
    """The stages in the dvc.lock of a commit, none where there is no dvc.lock."""
    text = git("show", f"{commit}:./dvc.lock", check=False)
    return parse_yaml(text, "dvc.lock").get("stages") or {} if text else {}


def is_of(lock: dict[str, Any], wanted: Plan) -> bool:
    """Did `evaluate` and all stages that it builds on run with the wanted params and code, as dvc.lock tells?

    A dvc.lock that is cut off within them does not tell.
    """
    try:
        stages = stages_up_to("evaluate", lock)
        params = {key: value for stage in stages for key, value in stage.get("params", {}).get(PARAMS.name, {}).items()}
        code = {dep["path"]: dep["md5"] for stage in stages for dep in stage["deps"] if dep["path"].endswith(".py")}
        outs = {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}
    except (AttributeError, KeyError, TypeError):
        return False
    return (
        PREDICTIONS in outs
        and flatten(params) == flatten({key: wanted.values.get(key) for key in params})
        and all(md5_of(path, wanted.contender.commit) == md5 for path, md5 in code.items())
    )


def has_same_pictures(commit: str, wanted: Plan) -> bool:
    """With `dataset: folder`: has the commit the pictures that the contender has?"""
    return wanted.values.get("dataset") != "folder" or pictures_at(commit) == pictures_at(wanted.contender.commit)


@cache
def pictures_at(commit: str) -> list[str]:
    """What Git says of the .dvc files in data/images/ of a commit: equal for the same pictures."""
    return [line for line in git("ls-tree", "-r", commit, "--", PICTURES).splitlines() if line.endswith(".dvc")]


@cache
def md5_of(path: str, commit: str) -> str:
    shown = subprocess.run(["git", "show", f"{commit}:./{path}"], capture_output=True)
    return hashlib.md5(shown.stdout, usedforsecurity=False).hexdigest()


def run(wanted: Plan) -> Run:
    """Run a plan as a DVC experiment and bring it into this repository; raises InputError when it fails."""
    commit, name = wanted.contender.commit, wanted.name
    reference = experiment_ref(commit, name)
    git_identity()  # before a clone is made
    if git("for-each-ref", reference):
        raise InputError(
            f"an experiment {name} has other params, code or pictures; rename it, or remove it: `dvc exp remove {name}`"
        )
    with clones.held(wanted.clone) as lock:
        print(f"running {name}", file=sys.stderr, flush=True)
        clones.prepare(wanted.clone, commit)
        git("-C", str(wanted.clone), "update-ref", "-d", reference)  # a kill may have left it there
        write_text(wanted.clone / PARAMS, wanted.contender.params)
        sets = [word for change in [*wanted.changes, f"seed={wanted.seed}"] for word in ("-S", change)]
        options = {"cwd": wanted.clone, "stdout": sys.stderr, "pass_fds": [lock]}
        if run_dvc("--name", name, *sets, environment=clones.environment(), **options):
            raise InputError(f"{name} failed, see above; fix this and run the same command again to continue")
        git("fetch", "--quiet", str(wanted.clone), f"{reference}:{reference}")
    found = find_run(wanted)
    if found is None:
        raise InputError(f"{name} ran, but its dvc.lock records other params or code than those of {commit[:7]}")
    return found


def conclude(runs: Sequence[Sequence[Run]], names: Sequence[str], metric: str, wanted: float) -> dict[str, Any]:
    """All numbers of the comparison, as plain values for JSON: each name against the first.

    `wanted` is the difference, a fraction, that the number of seeds is worked out for.
    """
    values = [[value_of(run, metric) for run in of_name] for of_name in runs]
    samples = [summarise(of_name) for of_name in values]
    contenders = [
        {
            "name": name,
            **sample._asdict(),
            "runs": [
                {"seed": r.seed, "experiment": r.name, "commit": r.commit, metric: value_of(r, metric)} for r in rs
            ],
        }
        for name, sample, rs in zip(names, samples, runs, strict=True)
    ]
    comparisons = []
    for k in range(1, len(names)):
        difference = welch(values[0], values[k])
        pair = samples[0], samples[k]
        deviations = pair[0].deviation, pair[1].deviation
        is_known = difference.low is not None
        comparisons.append(
            {
                "a": names[0],
                "b": names[k],
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "seeds_needed": seeds_needed(wanted, deviations) if is_known else None,
                "images": [found for a, b in zip(runs[0], runs[k], strict=True) if (found := compare_images(a, b))],
                "verdict": verdict((names[0], names[k]), pair, difference, wanted),
            }
        )
    return {
        "metric": metric,
        "wanted": wanted,
        "contenders": contenders,
        "comparisons": comparisons,
        "report": [name_of(run) for run, *_ in runs[:MOST]],  # what `python -m cifar report` can show
    }


def name_of(run: Run) -> str:
    """The run's name where that finds it, else its commit."""
    try:
        return run.name if find_commit(run.name) == run.commit else run.commit
    except InputError:
        return run.commit


def value_of(run: Run, metric: str) -> float:
    if metric not in run.metrics:
        raise InputError(f"{run.name} has no {metric}; its metrics are {', '.join(run.metrics)}")
    return run.metrics[metric]


def compare_images(a: Run, b: Run) -> dict[str, Any] | None:
    """McNemar's counts for one seed, or None, after a line on stderr, when the predictions cannot be compared."""
    try:
        (labels, is_correct_a), (others, is_correct_b) = read_predictions(a), read_predictions(b)
        if not np.array_equal(labels, others):
            raise InputError(f"{a.name} and {b.name} were evaluated on different test images")
    except InputError as error:
        print(f"seed {a.seed}: images are not compared: {error}", file=sys.stderr)
        return None
    return {"seed": a.seed, **mcnemar(is_correct_a, is_correct_b)._asdict()}


def read_predictions(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The test labels (N,) and whether the predictions are right, bool (N,); InputError when DVC's cache lacks them."""
    outs = {out["path"]: out["md5"] for out in lock_at(run.commit)["evaluate"]["outs"]}
    md5 = outs[PREDICTIONS]
    path = clones.cache_folder() / "files/md5" / md5[:2] / md5[2:]
    if not path.exists():
        raise InputError(
            f"{PREDICTIONS} of {run.name} is not in DVC's cache; `dvc fetch --all-commits` or `dvc exp pull` gets it "
            "from a remote"
        )
    try:
        labels, predicted = read_arrays(path, ["labels", "predictions"])
    except InputError:
        raise InputError(
            f"{path} is damaged; delete it, and then `dvc repro` in a checkout of {run.name} makes it again"
        ) from None
    return labels, predicted == labels


def as_text(found: dict[str, Any]) -> str:
    """The comparison for a person: accuracies as fractions, differences in points."""
    width = max(len(contender["name"]) for contender in found["contenders"])
    lines = [f"{'':{width}}  {found['metric']:>13}  deviation   n"]
    for contender in found["contenders"]:
        deviation = "" if contender["deviation"] is None else f"{contender['deviation']:.4f}"
        lines.append(f"{contender['name']:{width}}  {contender['mean']:13.4f}  {deviation:>9}  {contender['n']:2d}")
    for each in found["comparisons"]:
        a, b = each["a"], each["b"]
        interval = "" if each["low"] is None else f" ({100 * each['low']:+.2f} to {100 * each['high']:+.2f})"
        lines += ["", f"{b} minus {a}: {100 * each['difference']:+.2f} points{interval}", each["verdict"]]
        for row in each["images"]:
            right = f"images that only {a} gets right: {row['only_a']:,}; only {b}: {row['only_b']:,}"
            lines.append(f"  seed {row['seed']}: {right} (McNemar's p {row['p']:.2g})")
    seed = found["contenders"][0]["runs"][0]["seed"]
    command = shlex.join(["python", "-m", "cifar", "report", *found["report"]])
    lines += ["", f"see the curves and the images of seed {seed} on one page: {command}"]
    return "\n".join(lines)
