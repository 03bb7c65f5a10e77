"""List, compare, apply and run the recipes: `python -m recipes --help`.

A recipe is a complete params.yaml. Applying one copies it to params.yaml, comments included. Running one makes a DVC
experiment of the recipe's name, so that `dvc exp show` and `dvc plots diff` compare recipes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cifar.config.params import parse_yaml, read_yaml
from cifar.results.revisions import git
from cifar.system.errors import InputError
from cifar.system.files import replacing, write_text
from cifar.system.stage import run
from recipes.dvc_commands import experiment_ref, git_identity, run_dvc
from recipes.values import (
    FOLDER,
    PARAMS,
    experiment_name,
    flatten,
    read_recipe,
    recipe_names,
    recipe_text,
    text_with,
    values_with,
)

BEFORE = Path(".dvc/tmp/params-before-queue.yaml")
# What `compare` compares by: metrics of `evaluate` between 0 and 1 of which more is better.
COMPARED = "accuracy", "tta_accuracy", "top5_accuracy", "accuracy_without_duplicates", "balanced_accuracy", "macro_f1"


def main() -> None:
    arguments = parse(sys.argv[1:])
    match arguments.command:
        case "list":
            list_recipes()
        case "diff":
            print_differences(read_yaml(PARAMS), read_recipe(arguments.recipe))
        case "apply":
            apply(arguments.recipe, arguments.force)
        case "run":
            name = arguments.name or experiment_name(arguments.recipe, arguments.changes)
            git_identity()  # before params.yaml changes
            refuse_taken(name)
            apply(arguments.recipe, arguments.force, arguments.changes)
            run_experiment(name, arguments.changes)
        case "queue":
            queue(arguments.recipes, arguments.changes, arguments.force)
        case "compare":
            from recipes.compare import as_text, compare, conclude  # imports SciPy

            runs = compare(arguments.names, arguments.seeds, arguments.changes, arguments.metric)
            found = conclude(runs, arguments.names, arguments.metric, arguments.points / 100)
            print(json.dumps(found, indent=2) if arguments.json else as_text(found))
        case "page":
            page(arguments)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes", description="The recipes: complete sets of params.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list the recipes, each with a line about it")
    diff = commands.add_parser("diff", help="show what params.yaml would become, key by key")
    apply_ = commands.add_parser("apply", help="write a recipe to params.yaml")
    run_ = commands.add_parser("run", help="apply a recipe and run it as a DVC experiment of its name")
    queue_ = commands.add_parser("queue", help="put recipes into DVC's queue; `dvc queue start` runs them")
    compare = commands.add_parser("compare", help="tell whether one is better than another, over several seeds")
    compare.add_argument("names", metavar="NAME", nargs="+", help="a recipe, an experiment or a revision")
    compare.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    compare.add_argument(
        "--metric",
        default="accuracy",
        choices=COMPARED,
        help="one of metrics/evaluate.json: %(choices)s (default: accuracy)",
    )
    text = "also say how many seeds would show a difference of so many points, each 0.01 (default: 0.1)"
    compare.add_argument("--points", type=points, default=0.1, metavar="N", help=text)
    compare.add_argument("--json", action="store_true", help="print the figures as JSON")
    page_ = commands.add_parser("page", help="write docs/RECIPE.md from a finished run, or from docs/data/RECIPE/")
    for command in diff, apply_, run_, page_:
        command.add_argument("recipe", metavar="RECIPE")
    queue_.add_argument("recipes", metavar="RECIPE", nargs="+")
    run_.add_argument("--name", help="name of the experiment (default: the recipe's name, followed by the changes)")
    page_.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="a clone in which `dvc repro` has ended")
    page_.add_argument("--machine", default="", help="what the page says of the machine, as its letter in benchmarks/")
    text = "what `dvc repro` printed; the page takes the minutes of training from it"
    page_.add_argument("--log", type=Path, metavar="FILE", help=text)
    text = "replace params.yaml even if it has uncommitted changes"
    for command in apply_, run_:
        command.add_argument("--force", action="store_true", help=text)
    text = "queue even if params.yaml has uncommitted changes; they are brought back"
    queue_.add_argument("--force", action="store_true", help=text)
    for command in run_, queue_, compare, page_:
        text = "change a param of the recipe, as in `dvc exp run -S`; may be repeated"
        command.add_argument("-S", dest="changes", metavar="KEY=VALUE", action="append", default=[], help=text)
    return parser.parse_args(words)


def points(text: str) -> float:
    """A difference in points, above 0 and at most 100."""
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 100")
    return value


def list_recipes() -> None:
    names = recipe_names()
    for name in names:
        first_line = recipe_text(name).partition("\n")[0]
        print(f"{name:{max(map(len, names))}}  {first_line.lstrip('# ').removeprefix(f'{name}: ')}")


def print_differences(old: dict[str, Any], new: dict[str, Any]) -> None:
    """A line for each value that differs: sections key by key, lists whole."""
    before, after = flatten(old), flatten(new)
    if before != after:
        print("changes to params.yaml:")
    for key in differing(before, after):
        old, new = (json.dumps(values[key], default=str) if key in values else "absent" for values in (before, after))
        print(f"{key}: {old} -> {new}")
    if before == after:
        print("params.yaml has the values of the recipe already")


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before | after if key not in before or key not in after or before[key] != after[key]]


def apply(name: str, force: bool, changes: Sequence[str] = ()) -> None:
    """Copy the recipe to params.yaml, and print a line for each value that changes.

    Raises InputError and changes nothing when DVC refuses `changes` or, unless `force`, when params.yaml holds changes
    that are nowhere else. The recipe with `changes` may be replaced: an interrupted run leaves that.
    """
    recipe = read_recipe(name)
    changed = text_with(recipe_text(name), changes) if changes else recipe_text(name)
    values = current_params(force)
    if not force:
        refuse_to_lose_changes(lambda text: text.split() == changed.split())
    write_text(PARAMS, recipe_text(name))  # before the lines, which `| head` may cut off
    print_differences(values, recipe)


def current_params(force: bool) -> dict[str, Any]:
    """The values in params.yaml, {} when it is missing; raises InputError when it is damaged, unless `force`."""
    try:
        return read_yaml(PARAMS) if PARAMS.exists() else {}
    except InputError as error:
        if force:
            return {}
        raise InputError(f"{error}; fix it, or use --force to replace it") from None


def refuse_to_lose_changes(is_known: Callable[[str], bool] = lambda _: False) -> None:
    """Raise InputError when params.yaml is neither the committed one nor a recipe, nor a text that `is_known`."""
    if not PARAMS.exists():
        return
    text = PARAMS.read_text(encoding="utf-8")
    if text in map(recipe_text, recipe_names()) or is_known(text):
        return
    committed = committed_params()
    if text == committed:
        return
    if committed is None:
        raise InputError("params.yaml is not committed; commit it, or use --force to replace it")
    before, after = (flatten(parse_yaml(content, "params.yaml")) for content in (committed, text))
    changes = ", ".join(differing(before, after)) or "its comments"
    raise InputError(f"params.yaml has uncommitted changes: {changes}; commit them, or use --force")


def committed_params() -> str | None:
    """The text of params.yaml in the last commit; None when that has no such file, or there is no Git repository.

    Raises InputError with Git's own words when Git does not answer, as in a repository that belongs to another user.
    """
    try:
        is_committed = bool(git("ls-tree", "HEAD", "--", str(PARAMS)))
    except InputError as error:
        if "not a git repository" in str(error) or "Not a valid object name HEAD" in str(error):
            return None
        said = str(error).removeprefix("git ls-tree failed: ")
        raise InputError(f"git cannot tell whether params.yaml is committed: {said}") from None
    return git("show", f"HEAD:./{PARAMS}") if is_committed else None


def refuse_taken(name: str) -> None:
    """Raise InputError when the last commit has an experiment of this name, which DVC would not replace."""
    commit = git("rev-parse", "--quiet", "--verify", "HEAD", check=False).strip()
    if commit and git("for-each-ref", experiment_ref(commit, name)):
        raise InputError(
            f"the experiment {name} exists; `dvc exp apply {name}` brings its results into the workspace. To run it "
            f"again, remove it (`dvc exp remove {name}`) or choose another --name"
        )


def run_experiment(name: str, changes: list[str], *options: str) -> None:
    """`dvc exp run` with the current params.yaml and the changes; ends with its exit status when it fails."""
    status = run_dvc(*options, "--name", name, *(word for change in changes for word in ("-S", change)))
    if status:
        raise SystemExit(status)


def queue(recipes: list[str], changes: list[str], force: bool) -> None:
    """Put each recipe in DVC's queue, which copies params.yaml; afterwards params.yaml is the same as before."""
    for recipe in recipes:
        read_recipe(recipe)
    current_params(force)
    if not PARAMS.exists():
        raise InputError("params.yaml is missing; `git checkout -- params.yaml` brings the committed one back")
    if not force:
        refuse_to_lose_changes()
    if BEFORE.exists():
        raise InputError(f"an earlier `queue` was killed; your params.yaml is {BEFORE}: move it back or delete it")
    git_identity()
    for recipe in recipes:
        if changes:
            text_with(recipe_text(recipe), changes)  # raises where DVC refuses them
        refuse_taken(experiment_name(recipe, changes))
    before = PARAMS.read_bytes()
    with replacing(BEFORE) as part:
        part.write_bytes(before)
    try:
        for recipe in recipes:
            write_text(PARAMS, recipe_text(recipe))
            run_experiment(experiment_name(recipe, changes), changes, "--queue")
    finally:
        with replacing(PARAMS) as part:
            part.write_bytes(before)
        BEFORE.unlink()


def page(arguments: argparse.Namespace) -> None:
    """Copy a finished run's small files to docs/data/<recipe>/ if its folder is named, and make docs/<recipe>.md.

    `default` stands for the committed params.yaml.
    """
    from recipes.finished import Told, collect, refuse_unfinished  # imports pandas, those below SciPy
    from recipes.page import write_page

    recipe, folder = arguments.recipe, arguments.folder
    path = PARAMS if recipe == "default" else FOLDER / f"{recipe}.yaml"
    if recipe == "default":
        today = parse_yaml(committed_params() or PARAMS.read_text(encoding="utf-8"), "params.yaml")
    else:
        today = read_recipe(recipe)
    if folder:
        refuse_unfinished(folder)
        expected = values_with(git("-C", str(folder), "show", f"HEAD:./{path}"), arguments.changes)
        collect(recipe, expected, folder, Told(changes=arguments.changes, machine=arguments.machine, log=arguments.log))
    elif arguments.changes or arguments.machine or arguments.log:
        raise InputError("-S, --machine and --log describe a finished run; also give its FOLDER")
    print(f"written: {write_page(recipe, path, today)}")


if __name__ == "__main__":
    run(main, "run the same command again to continue", grace=600)  # until DVC has put the workspace in order
