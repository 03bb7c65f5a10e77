"""The schema of params.yaml: its keys, their values, and which values fit together.

A section whose name would be that of a class elsewhere ends in Spec: `AirNetSpec` describes the network `AirNet`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

IMAGE_SIZE = 32  # pixels a side of CIFAR-10 and of the drawn shapes; of own images `folder.size` says it
SIZES = range(16, 257)  # pixels a side that images may have
CLASS_COUNTS = range(2, 1001)  # how many classes a data set may have
TRAINING_IMAGES = 50_000  # of CIFAR-10
LAYERS = {  # where Grad-CAM can look, shallow to deep
    "airnet": ("prep", "layer1", "layer2", "layer3"),
    "custom_resnet": ("prep", "layer1", "layer2", "layer3"),
    "resnet18": ("prep", "layer1", "layer2", "layer3", "layer4"),
}
SMALLEST_STD = 1e-9  # one pixel in a billion that differs by one level gives 1.2e-7


class Section(BaseModel):
    """A mapping with known keys. Values must have the right YAML type: nothing is converted, except int to float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Result(Section):
    """The part that a stage reads of a JSON file that another stage has written; the other keys do not matter."""

    model_config = ConfigDict(extra="ignore")


def _learning_rate(value: Any) -> float | str:
    if value == "find" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6):
        return value
    raise ValueError("a number above 0, or find for the range test's suggestion")


def _power_of_two(value: int) -> int:
    if value & (value - 1) == 0:
        return value
    raise ValueError("1, 2, 4, 8 and so on")


def _peak_momentum(value: Any) -> float | str:
    if value == "same" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1):
        return value
    raise ValueError("a number from 0 to below 1, or same for the optimizer's own")


Mean = Annotated[float, Field(ge=0, le=1)]  # of values in [0, 1]
Std = Annotated[float, Field(ge=SMALLEST_STD, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float | str, PlainValidator(_learning_rate)]
Shards = Annotated[int, Field(ge=1, le=1024), AfterValidator(_power_of_two)]
PeakMomentum = Annotated[float | str, PlainValidator(_peak_momentum)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Shapes(Section):
    train: Annotated[int, Field(ge=10, le=1_000_000)]
    test: Annotated[int, Field(ge=10, le=1_000_000)]


class Folder(Section):
    size: Annotated[int, Field(ge=SIZES[0], le=SIZES[-1])]
    test_share: Annotated[float, Field(gt=0, lt=1)]


class WhiteningBias(Section):
    start: Literal["zero", "random"]
    epochs: Annotated[int, Field(ge=0, le=10_000)]
    lr_factor: Positive


class AirNetSpec(Section):
    name: Literal["airnet"]
    widths: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=3, max_length=3)]
    depth: Annotated[int, Field(ge=2, le=3)]
    norm_momentum: Annotated[float, Field(gt=0, le=1)]
    logit_scale: Positive
    whitening_bias: WhiteningBias


class CustomResNetSpec(Section):
    name: Literal["custom_resnet"]
    logit_scale: Positive


class ResNet18Spec(Section):
    name: Literal["resnet18"]
    norm: Literal["batch", "layer", "group"]
    strides: Annotated[list[Annotated[int, Field(ge=1, le=2)]], Field(min_length=4, max_length=4)]
    pool: Count

    @model_validator(mode="after")
    def _pool_divides_the_map(self) -> "ResNet18Spec":
        size = IMAGE_SIZE
        for stride in self.strides:
            size //= stride
        if size % self.pool:
            raise ValueError(
                f"model.pool is {self.pool}, it must divide the {size}x{size} maps that model.strides leave"
            )
        return self


class TransformSpec(Section):
    """An Albumentations transform by name. The other keys are its arguments, which `cifar.data.policy` checks."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class CrossEntropy(Section):
    name: Literal["cross_entropy"]
    label_smoothing: Fraction


class NLL(Section):
    name: Literal["nll"]


class SGDSpec(Section):
    name: Literal["sgd"]
    momentum: Fraction
    nesterov: bool
    weight_decay: NotNegative

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGDSpec":
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.momentum is 0, it must be above 0 with nesterov: true")
        return self


class AdamSpec(Section):
    """Adam, whose weight decay is L2, or AdamW, whose weight decay is decoupled from the gradient."""

    name: Literal["adam", "adamw"]
    beta1: Fraction
    beta2: Fraction
    weight_decay: NotNegative

    @property
    def momentum(self) -> float:
        """beta1 is Adam's momentum: the weight of the past in its average of the gradients."""
        return self.beta1


class MuonSpec(SGDSpec):
    """Muon for the filters of the convolutions, SGD for all other parameters."""

    name: Literal["muon"]
    filter_momentum: Fraction
    filter_lr_factor: Positive


class OneCycle(Section):
    name: Literal["one_cycle"]
    anneal: Literal["linear", "cosine"]
    peak_epoch: NotNegative
    end_factor: Annotated[float, Field(gt=0, le=1)]
    peak_momentum: PeakMomentum


class Triangular(Section):
    name: Literal["triangular"]
    half_cycle: Count


class StepDecay(Section):
    name: Literal["step"]
    every: Count
    factor: Annotated[float, Field(gt=0, le=1)]


class Plateau(Section):
    name: Literal["plateau"]
    patience: Annotated[int, Field(ge=0, le=1_000_000)]
    factor: Annotated[float, Field(gt=0, lt=1)]


class Constant(Section):
    name: Literal["constant"]


class NoAverage(Section):
    name: Literal["none"]


class ExponentialAverage(Section):
    name: Literal["ema"]
    decay: Fraction
    every: Count


class Lookahead(Section):
    name: Literal["lookahead"]
    decay: Fraction
    every: Count


class NoFilter(Section):
    name: Literal["none"]


class Proxy(Section):
    """A small network that picks the share of each batch that it finds hardest."""

    name: Literal["proxy"]
    share: Annotated[float, Field(gt=0, lt=1)]
    every: Count
    model: AirNetSpec


class RangeTest(Section):
    lr_start: Positive
    lr_end: Positive
    steps: Annotated[int, Field(ge=10, le=1_000_000)]
    smoothing: Annotated[float, Field(ge=1e-6, le=1)]
    stop_factor: Annotated[float, Field(gt=1, le=1e6)]

    @model_validator(mode="after")
    def _range_rises(self) -> "RangeTest":
        if self.lr_end <= self.lr_start:
            raise ValueError(f"lr_find.lr_end is {self.lr_end:g}, it must be above lr_start ({self.lr_start:g})")
        return self


class GradCAM(Section):
    method: Literal["gradcam", "gradcam++"]
    target: Literal["predicted", "label"]  # an unquoted `true` is no word in YAML
    layers: Annotated[list[str], Field(min_length=1, max_length=5)]


# Sections of several kinds: the key `name` says which.
ModelSpec = Annotated[AirNetSpec | CustomResNetSpec | ResNet18Spec, Field(discriminator="name")]
FilterSpec = Annotated[NoFilter | Proxy, Field(discriminator="name")]
LossSpec = Annotated[CrossEntropy | NLL, Field(discriminator="name")]
OptimizerSpec = Annotated[SGDSpec | AdamSpec | MuonSpec, Field(discriminator="name")]
ScheduleSpec = Annotated[OneCycle | Triangular | StepDecay | Plateau | Constant, Field(discriminator="name")]
AverageSpec = Annotated[NoAverage | ExponentialAverage | Lookahead, Field(discriminator="name")]


class Params(Section):
    """All of params.yaml; the comments there say what each key means."""

    dataset: Literal["cifar10", "shapes", "folder"]
    mirrors: list[Url]
    shapes: Shapes
    folder: Folder
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    val_size: Annotated[int, Field(ge=0, le=1_000_000)]
    model: ModelSpec
    augment: list[TransformSpec]
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Count
    shards: Shards
    filter: FilterSpec
    loss: LossSpec
    optimizer: OptimizerSpec
    l1: NotNegative
    regularise: Literal["all", "weights"]
    bias_lr_factor: Positive
    lr_max: LearningRate
    lr_min: LearningRate
    schedule: ScheduleSpec
    average: AverageSpec
    select: Literal["last", "best"]
    train_scores: Literal["running", "eval"]
    precision: Literal["auto", "bf16", "fp32"]
    compile: bool
    deterministic: bool
    lr_find: RangeTest
    test_time_augmentation: Literal["none", "flip", "flip_shift"]
    gallery_size: Annotated[int, Field(ge=1, le=100)]
    gradcam: GradCAM

    @model_validator(mode="after")
    def _fit_together(self) -> "Params":
        available = {"cifar10": TRAINING_IMAGES, "shapes": self.shapes.train}
        if self.dataset in available:  # how many a folder has is known later: see hold_out and feed
            left = available[self.dataset] - self.val_size
            if left < 1:
                raise ValueError(
                    f"val_size is {self.val_size}, it must be below the {available[self.dataset]} training images"
                )
            if self.batch_size > left:
                raise ValueError(
                    f"batch_size is {self.batch_size}, it must be at most the {left} images left to train on"
                )
        if self.compile and self.shards > 1:
            raise ValueError(f"compile is true, which works with shards: 1 only (shards is {self.shards})")
        if self.val_size == 0:
            for key, value in ("schedule.name", self.schedule.name), ("select", self.select):
                if value in ("plateau", "best"):
                    raise ValueError(f"{key} is {value!r}, which needs images held out for validation (val_size: 5000)")
        if isinstance(self.schedule, OneCycle) and self.schedule.peak_epoch >= self.epochs:
            raise ValueError(
                f"schedule.peak_epoch is {self.schedule.peak_epoch:g}, it must be below epochs ({self.epochs})"
            )
        has_both = "find" not in (self.lr_min, self.lr_max) and self.schedule.name != "constant"
        if has_both and self.lr_min > self.lr_max:
            raise ValueError(f"lr_min is {self.lr_min:g}, it must be at most lr_max ({self.lr_max:g})")
        for layer in self.gradcam.layers:
            if layer not in LAYERS[self.model.name]:
                allowed = ", ".join(LAYERS[self.model.name])
                raise ValueError(f"gradcam.layers names {layer!r}, {self.model.name} has {allowed}")
        return self
