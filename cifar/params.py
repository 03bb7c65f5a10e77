"""params.yaml: its schema, its checks, and the part of it that a stage has declared."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError

from cifar.console import InputError

TRAINING_IMAGES = 50_000  # of CIFAR-10
LAYERS = {"custom_resnet": ("prep", "layer1", "layer2", "layer3")}  # where Grad-CAM can look, shallow to deep


class Section(BaseModel):
    """A mapping of known keys; YAML's own types, so that no 'no' becomes False and no '1e-3' a word."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _learning_rate(value: Any) -> float | str:
    if value == "find" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6):
        return value
    raise ValueError("a number above 0, or find for the range test's suggestion")


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float | str, PlainValidator(_learning_rate)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Shapes(Section):
    train: Annotated[int, Field(ge=10, le=1_000_000)]
    test: Annotated[int, Field(ge=10, le=1_000_000)]


class CustomResNet(Section):
    name: Literal["custom_resnet"]
    logit_scale: Positive


class Transform(Section):
    """An Albumentations transform by name; `cifar.augment` checks its arguments, which are the other keys."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SGD(Section):
    name: Literal["sgd"]
    momentum: Fraction
    nesterov: bool
    weight_decay: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.momentum is 0, it must be above 0 with nesterov: true")
        return self


class OneCycle(Section):
    name: Literal["one_cycle"]
    peak_epoch: Annotated[float, Field(ge=0)]


class Triangular(Section):
    name: Literal["triangular"]
    half_cycle: Count


class RangeTest(Section):
    lr_start: Positive
    lr_end: Positive
    steps: Annotated[int, Field(ge=10)]
    smoothing: Annotated[float, Field(gt=0, le=1)]
    stop_factor: Annotated[float, Field(gt=1)]

    @model_validator(mode="after")
    def _range_rises(self) -> "RangeTest":
        if self.lr_end <= self.lr_start:
            raise ValueError(f"lr_find.lr_end is {self.lr_end:g}, it must be above lr_start ({self.lr_start:g})")
        return self


class GradCAM(Section):
    method: Literal["gradcam", "gradcam++"]
    target: Literal["predicted", "label"]  # an unquoted `true` is no word in YAML
    layers: Annotated[list[str], Field(min_length=1, max_length=4)]


class Params(Section):
    """All of params.yaml. What each key means stands beside it there."""

    dataset: Literal["cifar10", "shapes"]
    mirrors: list[Url]
    shapes: Shapes
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    val_size: Annotated[int, Field(ge=0)]
    model: CustomResNet
    augment: list[Transform]
    epochs: Count
    batch_size: Count
    label_smoothing: Fraction
    optimizer: SGD
    lr_max: LearningRate
    lr_min: LearningRate
    schedule: Annotated[OneCycle | Triangular, Field(discriminator="name")]
    precision: Literal["auto", "bf16", "fp32"]
    lr_find: RangeTest
    gallery_size: Annotated[int, Field(ge=1, le=100)]
    gradcam: GradCAM

    @model_validator(mode="after")
    def _fit_together(self) -> "Params":
        available = TRAINING_IMAGES if self.dataset == "cifar10" else self.shapes.train
        left = available - self.val_size
        if left < 1:
            raise ValueError(f"val_size is {self.val_size}, it must be below the {available} training images")
        if self.batch_size > left:
            raise ValueError(f"batch_size is {self.batch_size}, it must be at most the {left} images left to train on")
        if isinstance(self.schedule, OneCycle) and self.schedule.peak_epoch >= self.epochs:
            raise ValueError(
                f"schedule.peak_epoch is {self.schedule.peak_epoch:g}, it must be below epochs ({self.epochs})"
            )
        if "find" not in (self.lr_min, self.lr_max) and self.lr_min > self.lr_max:
            raise ValueError(f"lr_min is {self.lr_min:g}, it must be at most lr_max ({self.lr_max:g})")
        for layer in self.gradcam.layers:
            if layer not in LAYERS[self.model.name]:
                allowed = ", ".join(LAYERS[self.model.name])
                raise ValueError(f"gradcam.layers names {layer!r}, {self.model.name} has {allowed}")
        return self


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
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run this from the root of the repository") from None
    except (YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path} is not valid YAML{f', line {where.line + 1}' if where else ''}: {what}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise InputError(f"{path} holds {found}, expected keys with values")
    return values


def check_params(values: dict[str, Any], source: str) -> Params:
    """`values` as Params; raises InputError with the first thing wrong in them, `source` named."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error.errors(include_url=False)[0], values)}") from None


def _explain(problem: dict[str, Any], values: dict[str, Any]) -> str:
    """One of pydantic's errors in a line: the key, what was found, what is allowed."""
    path = [part for part in problem["loc"] if part not in ("one_cycle", "triangular")]  # union tags are no keys
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    match problem["type"]:
        case "missing":
            return f"{key} is missing"
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
        case "union_tag_not_found":
            return f"{key}.name is missing"
        case "string_pattern_mismatch":
            return f"{key} is {problem['input']!r}, it must match {problem['ctx']['pattern']}"
        case _:
            allowed = problem["msg"].replace("Input should be", "it must be").replace(" (", ", ").rstrip(")")
            return f"{key} is {problem['input']!r}, {allowed[0].lower()}{allowed[1:]}"


def _known_keys(path: list[str | int], values: dict[str, Any]) -> list[str]:
    """The keys that the schema knows at `path`; for a section of several kinds, those of the kind named."""
    if not path:
        return list(Params.model_fields)
    kinds = [CustomResNet, SGD, OneCycle, Triangular]
    by_name = {kind.model_fields["name"].annotation.__args__[0]: kind for kind in kinds}
    section = values.get(path[0])
    kind = by_name.get(section.get("name")) if isinstance(section, dict) and "name" in section else None
    kind = kind or {"shapes": Shapes, "lr_find": RangeTest, "gradcam": GradCAM}.get(path[0])
    return list(kind.model_fields) if kind else []
