"""params.yaml read and checked, and the part of it that a stage has declared."""

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML, YAMLError

from cifar.config.schema import Params
from cifar.system.process import InputError


class Declared:
    """The params that dvc.yaml declares for one stage; reading any other is an error: DVC would not see it change."""

    def __init__(self, stage: str, params: Params, names: list[str]):
        self.__dict__.update({name: getattr(params, name) for name in names}, _stage=stage)
        self.__dict__["_values"] = params.model_dump(include=set(names))

    def values(self) -> dict[str, Any]:
        """All of them as plain values."""
        return self._values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"stages.{self._stage} reads {name}, which dvc.yaml does not declare: add it to stages.{self._stage}.params"
        )


def load_params(stage: str) -> Declared:
    """params.yaml, checked as a whole, cut down to what dvc.yaml declares for `stage`.

    Raises InputError: one line that names the key, what was found and what is allowed.
    """
    params = check_params(read_yaml("params.yaml"), "params.yaml")
    names = read_yaml("dvc.yaml")["stages"][stage].get("params", [])
    return Declared(stage, params, names)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file, read as DVC reads it (PyYAML, at 1.1, takes 1e-05 for a word)."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run this from the root of the repository") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not valid YAML: it is not UTF-8 text") from None


def parse_yaml(text: str, path: str | Path) -> dict[str, Any]:
    """The mapping in `text`, which is that of the file at `path`."""
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path} is not valid YAML{f', line {where.line + 1}' if where else ''}: {what}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise InputError(f"{path} holds {found}, expected keys with values")
    if _holds_itself(values, set(), set()):
        raise InputError(f"{path} is not valid: an alias (*name) stands within what it names")
    return values


def _holds_itself(value: Any, above: set[int], done: set[int]) -> bool:
    """Does a list or mapping lie, at any depth, within itself? `above` are the ids of its parents, `done` hold none."""
    if not isinstance(value, dict | list) or id(value) in done:
        return False
    if id(value) in above:
        return True
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    is_found = any(_holds_itself(item, above | {id(value)}, done) for item in inner)
    done.add(id(value))
    return is_found


def check_params(values: dict[str, Any], source: str) -> Params:
    """`values` as Params; raises InputError with the first thing wrong in them, `source` named."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error.errors(include_url=False)[0], values)}") from None


def _explain(problem: dict[str, Any], values: dict[str, Any]) -> str:
    """One of pydantic's errors in a line: the key, what was found, what is allowed."""
    path = list(problem["loc"])
    if len(path) > 1 and path[0] in Params.model_fields and len(_kinds(path[0])) > 1:
        del path[1]  # the name of the kind, which is no key
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    match problem["type"]:
        case "missing":
            known = f"{path[0]}, as it is named, has {', '.join(_known_keys(path[:-1], values))}"
            return f"{key} is missing" + (f"; {known}" if len(path) == 2 and len(_kinds(path[0])) > 1 else "")
        case "extra_forbidden":
            known = _known_keys(path[:-1], values)
            near = difflib.get_close_matches(str(path[-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
            return f"{key} is not a known key, {hint}"
        case "value_error":
            text = str(problem["ctx"]["error"])
            is_whole = not key or isinstance(problem["input"], dict)
            return text if is_whole else f"{key} is {problem['input']!r}, allowed: {text}"
        case "union_tag_invalid":
            return f"{key}.name is {problem['ctx']['tag']!r}, allowed: {problem['ctx']['expected_tags']}"
        case "model_type" | "model_attributes_type":  # pydantic would name a class
            return f"{key} is {problem['input']!r}, it must be keys with values"
        case "union_tag_not_found":
            return f"{key}.name is missing"
        case "string_pattern_mismatch":
            return f"{key} is {problem['input']!r}, it must match {problem['ctx']['pattern']}"
        case _:
            allowed = problem["msg"].replace("Input should be", "it must be").replace(" (", ", ").rstrip(")")
            return f"{key} is {problem['input']!r}, {allowed[0].lower()}{allowed[1:]}"


def _known_keys(path: list[str | int], values: dict[str, Any]) -> list[str]:
    """The keys that the schema knows at `path`; for a section of several kinds, those of the kind named."""
    section = Params
    for key in path:
        values = values[key]
        if isinstance(key, int):  # an item of a list, whose section the list has brought already
            continue
        kinds = _kinds(key, section)
        if len(kinds) > 1:
            kinds = [kind for kind in kinds if values["name"] in get_args(kind.model_fields["name"].annotation)]
        section = kinds[0]
    return list(section.model_fields)


def _kinds(key: str, section: type[BaseModel] = Params) -> list[type[BaseModel]]:
    """The sections that may stand at `key` of a section: one, or several that tell themselves apart by name."""
    annotation = section.model_fields[key].annotation
    kinds = get_args(annotation) or [annotation]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
