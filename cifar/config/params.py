"""params.yaml, read and checked, and the part of it that a stage declares."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from cifar.config.schema import Params
from cifar.system.errors import InputError
from cifar.system.files import read_json

AnySection = TypeVar("AnySection", bound=BaseModel)

SHOWN = 80  # characters of a value or a key in a message
LARGEST = 100_000  # values in a YAML file; dvc.lock and the longest augmentation have a few hundred


class Declared:
    """The params that dvc.yaml declares for one stage; reading another is an error, as DVC would not see it change."""

    def __init__(self, stage: str, params: Params, names: list[str]):
        self.__dict__.update({name: getattr(params, name) for name in names}, _stage=stage)
        self.__dict__["_values"] = params.model_dump(include=set(names))

    def values(self) -> dict[str, Any]:
        """All declared params as plain values."""
        return self._values

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"stages.{self._stage} reads {name}, which dvc.yaml does not declare: add it to stages.{self._stage}.params"
        )


def load_params(stage: str) -> Declared:
    """The params that dvc.yaml declares for `stage`; params.yaml is checked as a whole.

    Raises InputError: one line that names the key, its value and what is allowed.
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
    """The mapping in `text`, the content of the file at `path`; raises InputError when it is not one."""
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except MemoryError:
        raise
    except Exception as error:  # for a tag that does not fit its value ruamel.yaml raises whatever its parsers do
        where = getattr(error, "problem_mark", None)
        what = _clip(getattr(error, "problem", None) or type(error).__name__)
        raise InputError(f"{path} is not valid YAML{f', line {where.line + 1}' if where else ''}: {what}") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise InputError(f"{path} holds {kind}, expected keys with values")
    try:
        size = _expanded_size(values, {}, set())
    except RecursionError:
        raise InputError(f"{path} is not valid: an alias (*name) is part of what it stands for") from None
    if size > LARGEST:
        raise InputError(f"{path} is not valid: its aliases (*name) stand for more than {LARGEST:,} values")
    return values


def _expanded_size(value: Any, sizes: dict[int, int], above: set[int]) -> int:
    """How many values `value` holds, itself included, with every alias replaced by what it names.

    `sizes` remembers the lists and mappings counted so far by id, and `above` holds the ids of the parents of `value`.
    Raises RecursionError when a list or mapping lies within itself.
    """
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) in above:
        raise RecursionError
    if id(value) not in sizes:
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded_size(item, sizes, above | {id(value)}) for item in inner)
    return sizes[id(value)]


def _clip(text: str, end: int = 0) -> str:
    """At most SHOWN characters of `text` and its last `end`, with … for what is left out between them."""
    return text if len(text) <= SHOWN + end else f"{text[: SHOWN - 1]}…{text[len(text) - end :]}"


def _show(value: Any) -> str:
    """`value` as Python writes it, clipped."""
    try:
        return _clip(repr(value))
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"


def read_section(path: str | Path, section: type[AnySection]) -> AnySection:
    """The JSON file at `path` as a section of a schema; raises InputError if it is missing or holds other values."""
    values = read_json(path)
    try:
        return section.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"])) or "it"
        message = problem["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{path} is damaged, {key}: {message[0].lower()}{message[1:]}; delete it and run `make repro`"
        ) from None


def check_params(values: dict[str, Any], source: str) -> Params:
    """`values` as Params; raises InputError with the first fault in them; `source` names the file."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error.errors(include_url=False)[0], values)}") from None


def _explain(problem: dict[str, Any], values: dict[str, Any]) -> str:
    """One of pydantic's errors in a line: the key, the value, what is allowed."""
    path = list(problem["loc"])
    has_kinds = len(path) > 1 and path[0] in Params.model_fields and len(_kinds(path[0])) > 1
    if has_kinds:
        del path[1]  # the name of the kind, which is no key
    key = _clip("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip("."))
    value = _show(problem["input"])
    match problem["type"]:
        case "missing":
            if not (has_kinds and len(path) == 2):
                return f"{key} is missing"
            known = f"{path[0]} {values[path[0]]['name']} has {', '.join(_known_keys(path[:1], values))}"
            return f"{key} is missing; {known}{_way_out(path[0], values)}"
        case "extra_forbidden":
            known = _known_keys(path[:-1], values)
            near = difflib.get_close_matches(_clip(str(path[-1])), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
            is_of_other_kind = has_kinds and len(path) == 2 and path[1] in _keys_of_all_kinds(path[0])
            return f"{key} is not a known key, {hint}" + (_way_out(path[0], values) if is_of_other_kind else "")
        case "value_error":
            text = _clip(str(problem["ctx"]["error"]), end=120)  # in which the schema may name a value
            names_key = not key or text.startswith(f"{key}.")  # a section's own check names the key
            return text if names_key else f"{key} is {value}, allowed: {text}"
        case "union_tag_invalid":
            return f"{key}.name is {_show(problem['ctx']['tag'])}, allowed: {problem['ctx']['expected_tags']}"
        case "model_type" | "model_attributes_type":  # pydantic would name a class
            return f"{key} is {value}, it must be keys with values"
        case "union_tag_not_found":
            return f"{key}.name is missing"
        case "string_pattern_mismatch":
            return f"{key} is {value}, it must match {problem['ctx']['pattern']}"
        case _:
            allowed = problem["msg"].replace("Input should be", "it must be").replace(" (", ", ").rstrip(")")
            return f"{key} is {value}, {allowed[0].lower()}{allowed[1:]}"


def _way_out(section: str, values: dict[str, Any]) -> str:
    """The next step when a section has another kind's keys than its name says, as after `-S model.name=resnet18`."""
    known = _known_keys([section], values)
    keys = ",".join(f"{key}:{values[section]['name'] if key == 'name' else '…'}" for key in known)
    whole = f"-S '~{section}' -S '+{section}={{{keys}}}'"
    return f"; replace the section as a whole ({whole}) or start from a recipe (python -m recipes list)"


def _keys_of_all_kinds(section: str) -> set[str]:
    return {key for kind in _kinds(section) for key in kind.model_fields}


def _known_keys(path: list[str | int], values: dict[str, Any]) -> list[str]:
    """The keys that the schema knows at `path`; in a section of several kinds, those of the kind that `name` says."""
    section = Params
    for key in path:
        values = values[key]
        if isinstance(key, int):  # an item of a list: `section` is already the class of its items
            continue
        kinds = _kinds(key, section)
        if len(kinds) > 1:
            kinds = [kind for kind in kinds if values["name"] in get_args(kind.model_fields["name"].annotation)]
        section = kinds[0]
    return list(section.model_fields)


def _kinds(key: str, section: type[BaseModel] = Params) -> list[type[BaseModel]]:
    """The classes of the section at `key`: one, or several that are told apart by their name."""
    annotation = section.model_fields[key].annotation
    kinds = get_args(annotation) or [annotation]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
