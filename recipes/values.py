"""The recipes and their values, with changes as in `dvc exp run -S`.

Paths are relative to the project's folder, in which the commands run.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar.config.params import check_params, parse_yaml, read_yaml
from cifar.system.errors import InputError, is_out_of_memory, one_line

FOLDER = Path("recipes")
PARAMS = Path("params.yaml")


def recipe_names() -> list[str]:
    if not FOLDER.is_dir():
        raise InputError(f"{FOLDER}/ is missing; run this from the root of the repository")
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_text(name: str) -> str:
    """The file of the recipe; raises InputError when it is not UTF-8."""
    path = FOLDER / f"{name}.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe's values, checked; raises InputError when there is no such recipe or it is not valid."""
    if name not in recipe_names():
        raise InputError(f"there is no recipe {name!r}; choose from {', '.join(recipe_names())}")
    values = read_yaml(FOLDER / f"{name}.yaml")
    check_params(values, f"{FOLDER}/{name}.yaml")
    return values


def text_with(text: str, changes: Sequence[str]) -> str:
    """The content `text` of a params.yaml after `changes`, as `dvc exp run -S` writes it.

    Raises InputError when DVC refuses a change.
    """
    from dvc.utils.hydra import apply_overrides  # a second to import

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PARAMS)
        path.write_text(text, encoding="utf-8")
        try:
            apply_overrides(path, list(changes))
        except Exception as error:  # beyond DVC's own, whatever OmegaConf and ruamel.yaml raise
            if is_out_of_memory(error):
                raise
            raise InputError(f"-S {' '.join(changes)}: {one_line(error) or type(error).__name__}") from None
        return path.read_text(encoding="utf-8")


def values_with(text: str, changes: Sequence[str]) -> dict[str, Any]:
    """The values of the params.yaml with the content `text` after `changes`; raises InputError as `text_with` does."""
    return parse_yaml(text_with(text, changes), "params.yaml")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same values by dotted key."""
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def experiment_name(recipe: str, changes: list[str]) -> str:
    """The recipe's name, followed by the changes in the letters that Git allows: eva4-s8-seed-1."""
    return "-".join([recipe, *(re.sub(r"[^\w.]+", "-", change).strip("-.") for change in changes)])
