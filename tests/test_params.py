"""params.yaml: what is wrong in it is said in one line that names the key, and a stage reads only what it declares."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from specs import CIFAR

from cifar.config.params import check_params, load_params, read_yaml
from cifar.config.schema import LAYERS, ModelSpec, Params
from cifar.system.errors import InputError

ROOT = Path(__file__).parents[1]
GOOD = read_yaml(ROOT / "params.yaml") | {
    "dataset": "cifar10",
    "shapes": {"train": 3000, "test": 1000},
    "val_size": 5000,
    "epochs": 24,
    "batch_size": 512,
    "lr_max": 0.4,
    "lr_min": 0.0125,
    "schedule": {
        "name": "one_cycle",
        "anneal": "linear",
        "peak_epoch": 5,
        "end_factor": 1.0,
        "peak_momentum": "same",
    },
}
CUSTOM = {"name": "custom_resnet", "logit_scale": 1.0}
RESNET = {"name": "resnet18", "norm": "batch", "strides": [1, 2, 2, 2], "pool": 4}
AIRNET = {
    "name": "airnet",
    "widths": [8, 16, 16],
    "depth": 2,
    "norm_momentum": 0.4,
    "logit_scale": 0.1,
    "whitening_bias": {"start": "random", "epochs": 3, "lr_factor": 64.0},
}
PROXY = {"name": "proxy", "share": 0.5, "every": 4, "model": AIRNET}
LOOKAHEAD = {"name": "lookahead", "decay": 0.9, "every": 5}
ADAM = {"name": "adam", "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0}
STEP = {"name": "step", "every": 4, "factor": 0.8}
PLATEAU = {"name": "plateau", "patience": 3, "factor": 0.2}
ABSENT = object()


def changed(**values: object) -> dict:
    """Good params with some keys replaced; `section__key` stands for a key inside a section, ABSENT removes it."""
    params = copy.deepcopy(GOOD)
    for name, value in values.items():
        *path, key = name.split("__")
        section = params
        for part in path:
            section = section[int(part) if part.isdigit() else part]
        if value is ABSENT:
            del section[key]
        else:
            section[key] = value
    return params


def way_out(section: str, keys: str) -> str:
    whole = f"-S '~{section}' -S '+{section}={{{keys}}}'"
    return f"; replace the section as a whole ({whole}) or start from a recipe (python -m recipes list)"


WRONG_PARAMS = [
    # an unknown key
    ({"epochz": 3}, "epochz is not a known key, did you mean epochs?"),
    ({"lr_find__smothing": 0.1}, "lr_find.smothing is not a known key, did you mean smoothing?"),
    ({"optimizer__nestrov": True}, "optimizer.nestrov is not a known key, did you mean nesterov?"),
    (
        {"schedule__half_cycle": 98},
        "schedule.half_cycle is not a known key, allowed: name, anneal, peak_epoch, end_factor, peak_momentum"
        + way_out("schedule", "name:one_cycle,anneal:…,peak_epoch:…,end_factor:…,peak_momentum:…"),
    ),
    ({"schedule": STEP | {"evry": 3}}, "schedule.evry is not a known key, did you mean every?"),
    (
        {"optimizer": ADAM | {"nesterov": True}},
        "optimizer.nesterov is not a known key, allowed: name, beta1, beta2, weight_decay"
        + way_out("optimizer", "name:adam,beta1:…,beta2:…,weight_decay:…"),
    ),
    (
        {"model": RESNET | {"logit_scale": 1.0}},
        "model.logit_scale is not a known key, allowed: name, norm, strides, pool"
        + way_out("model", "name:resnet18,norm:…,strides:…,pool:…"),
    ),
    (
        {"filter": {"name": "proxy", "share": 0.5}},
        "filter.every is missing; filter proxy has name, share, every, model"
        + way_out("filter", "name:proxy,share:…,every:…,model:…"),
    ),
    ({"filter__model": AIRNET}, "filter.model is not a known key, allowed: name" + way_out("filter", "name:none")),
    ({"filter": PROXY | {"shar": 0.5}}, "filter.shar is not a known key, did you mean share?"),
    (
        {"filter": PROXY | {"model": AIRNET | {"wdths": 8}}},
        "filter.model.wdths is not a known key, did you mean widths?",
    ),
    (
        {"model": AIRNET | {"whitening_bias": {"start": "zero", "epochs": 3}}},
        "model.whitening_bias.lr_factor is missing",
    ),
    ({"average": LOOKAHEAD | {"evry": 5}}, "average.evry is not a known key, did you mean every?"),
    (
        {"loss": {"name": "nll", "label_smoothing": 0.1}},
        "loss.label_smoothing is not a known key, allowed: name" + way_out("loss", "name:nll"),
    ),
    ({"gradcam__layer": "layer3"}, "gradcam.layer is not a known key, did you mean layers?"),
    # a missing one
    ({"epochs": ABSENT}, "epochs is missing"),
    ({"model": ABSENT}, "model is missing"),
    ({"schedule__name": ABSENT}, "schedule.name is missing"),
    (
        {"schedule__name": "triangular"},
        "schedule.half_cycle is missing; schedule triangular has name, half_cycle"
        + way_out("schedule", "name:triangular,half_cycle:…"),
    ),
    ({"augment__0__name": ABSENT}, "augment[0].name is missing"),
    # another type
    ({"epochs": 2.5}, "epochs is 2.5, it must be a valid integer"),
    ({"epochs": "ten"}, "epochs is 'ten', it must be a valid integer"),
    ({"seed": True}, "seed is True, it must be a valid integer"),
    ({"optimizer__nesterov": 1}, "optimizer.nesterov is 1, it must be a valid boolean"),
    ({"optimizer__weight_decay": "1e-3"}, "optimizer.weight_decay is '1e-3', it must be a valid number"),
    ({"optimizer__weight_decay": float("nan")}, "optimizer.weight_decay is nan, it must be a finite number"),
    ({"augment": None}, "augment is None, it must be a valid list"),
    ({"gradcam__layers": "layer3"}, "gradcam.layers is 'layer3', it must be a valid list"),
    # a value out of range
    ({"epochs": -3}, "epochs is -3, it must be greater than or equal to 1"),
    ({"batch_size": 0}, "batch_size is 0, it must be greater than or equal to 1"),
    ({"shards": 0}, "shards is 0, it must be greater than or equal to 1"),
    ({"shards": 6}, "shards is 6, allowed: 1, 2, 4, 8 and so on"),
    ({"shards": 2, "compile": True}, "compile is true, which works with shards: 1 only (shards is 2)"),
    ({"epochs": 10**9}, "epochs is 1000000000, it must be less than or equal to 10000"),
    ({"model__logit_scale": 1e300}, "model.logit_scale is 1e+300, it must be less than or equal to 1000000"),
    ({"seed": 2**32}, "seed is 4294967296, it must be less than 4294967296"),
    ({"loss__label_smoothing": 1.0}, "loss.label_smoothing is 1.0, it must be less than 1"),
    ({"l1": -1e-5}, "l1 is -1e-05, it must be greater than or equal to 0"),
    (
        {"model": RESNET | {"strides": [1, 2, 2]}},
        "model.strides is [1, 2, 2], list should have at least 4 items after validation, not 3",
    ),
    ({"model": RESNET | {"strides": [1, 2, 2, 3]}}, "model.strides[3] is 3, it must be less than or equal to 2"),
    ({"schedule__end_factor": 0.0}, "schedule.end_factor is 0.0, it must be greater than 0"),
    (
        {"schedule__peak_momentum": 1.0},
        "schedule.peak_momentum is 1.0, allowed: a number from 0 to below 1, or same for the optimizer's own",
    ),
    ({"filter": PROXY | {"share": 1.0}}, "filter.share is 1.0, it must be less than 1"),
    ({"average": LOOKAHEAD | {"decay": 1.0}}, "average.decay is 1.0, it must be less than 1"),
    ({"filter": PROXY | {"every": 0}}, "filter.every is 0, it must be greater than or equal to 1"),
    ({"optimizer__momentum": 1.5}, "optimizer.momentum is 1.5, it must be less than 1"),
    ({"lr_find__steps": 5}, "lr_find.steps is 5, it must be greater than or equal to 10"),
    ({"lr_find__stop_factor": 1.0}, "lr_find.stop_factor is 1.0, it must be greater than 1"),
    ({"gallery_size": 1000}, "gallery_size is 1000, it must be less than or equal to 100"),
    ({"lr_max": 0}, "lr_max is 0, allowed: a number above 0, or find for the range test's suggestion"),
    ({"lr_max": "search"}, "lr_max is 'search', allowed: a number above 0, or find for the range test's suggestion"),
    (
        {"lr_max": {"a": 1}},
        "lr_max is {'a': 1}, allowed: a number above 0, or find for the range test's suggestion",
    ),
    (
        {"schedule__peak_momentum": {"a": 1}},
        "schedule.peak_momentum is {'a': 1}, allowed: a number from 0 to below 1, or same for the optimizer's own",
    ),
    ({"val_size": 1_000_001}, "val_size is 1000001, it must be less than or equal to 1000000"),
    ({"lr_min": True}, "lr_min is True, allowed: a number above 0, or find for the range test's suggestion"),
    # an unknown word
    ({"dataset": "cifar100"}, "dataset is 'cifar100', it must be 'cifar10', 'shapes' or 'folder'"),
    ({"model__name": "resnet50"}, "model.name is 'resnet50', allowed: 'airnet', 'custom_resnet', 'resnet18'"),
    (
        {"model": AIRNET | {"whitening_bias": {"start": "one", "epochs": 3, "lr_factor": 1.0}}},
        "model.whitening_bias.start is 'one', it must be 'zero' or 'random'",
    ),
    ({"average__name": "swa"}, "average.name is 'swa', allowed: 'none', 'ema', 'lookahead'"),
    ({"filter__name": "hardest"}, "filter.name is 'hardest', allowed: 'none', 'proxy'"),
    ({"filter": None}, "filter is None, it must be keys with values"),
    ({"filter": PROXY | {"model": 3}}, "filter.model is 3, it must be keys with values"),
    ({"filter": PROXY | {"model": RESNET}}, "filter.model.name is 'resnet18', it must be 'airnet'"),
    (
        {"schedule__name": "cosine"},
        "schedule.name is 'cosine', allowed: 'one_cycle', 'triangular', 'step', 'plateau', 'constant'",
    ),
    ({"precision": "fp16"}, "precision is 'fp16', it must be 'auto', 'bf16' or 'fp32'"),
    ({"gradcam__layers": ["layer9"]}, "gradcam.layers names 'layer9', custom_resnet has prep, layer1, layer2, layer3"),
    ({"mirrors": ["ftp://a/b"]}, r"mirrors[0] is 'ftp://a/b', it must match ^https?://\S+$"),
    # values that do not go together
    ({"val_size": 50_000}, "val_size is 50000, it must be below the 50000 training images"),
    ({"batch_size": 45_001}, "batch_size is 45001, it must be at most the 45000 images left to train on"),
    ({"dataset": "shapes"}, "val_size is 5000, it must be below the 3000 training images"),
    ({"schedule__peak_epoch": 24}, "schedule.peak_epoch is 24, it must be below epochs (24)"),
    (
        {"val_size": 0, "select": "best"},
        "select is 'best', which needs images held out for validation (val_size: 5000)",
    ),
    (
        {"val_size": 0, "schedule": PLATEAU},
        "schedule.name is 'plateau', which needs images held out for validation (val_size: 5000)",
    ),
    (
        {"model": RESNET | {"pool": 3}, "gradcam__layers": ["layer4"]},
        "model.pool is 3, it must divide the 4x4 maps that model.strides leave",
    ),
    ({"lr_max": 0.01}, "lr_min is 0.0125, it must be at most lr_max (0.01)"),
    (
        {"lr_find__lr_end": 1e-9},
        f"lr_find.lr_end is 1e-09, it must be above lr_start ({GOOD['lr_find']['lr_start']:g})",
    ),
    ({"optimizer__momentum": 0.0}, "optimizer.momentum is 0, it must be above 0 with nesterov: true"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_PARAMS, ids=[message for _, message in WRONG_PARAMS])
def test_a_wrong_value_is_one_line_that_names_the_key_what_was_found_and_what_is_allowed(change, message):
    with pytest.raises(InputError) as error:
        check_params(changed(**change), "params.yaml")
    assert str(error.value) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x" * 10**7},
        {"x" * 10**7: 1},
        {"model__name": "x" * 10**7},
        {"mirrors": ["x" * 10**7]},
        {"lr_max": "x" * 10**7},
        {"gradcam__layers": ["x" * 10**7]},
        {"val_size": 10**4000},
        {"model__name": [0] * 10**5},
        {"schedule__" + "x" * 10**7: 1},
    ],
    ids=lambda change: next(iter(change))[:20],
)
def test_a_value_of_any_length_is_a_line_of_readable_length(change):
    with pytest.raises(InputError) as error:
        check_params(changed(**change), "params.yaml")
    assert 20 < len(str(error.value)) < 600 and "…" in str(error.value)


@pytest.mark.parametrize("key", ["seed", "val_size", "epochs", "lr_max", "l1", "schedule__peak_epoch", "seeds"])
def test_a_number_of_more_digits_than_python_writes_is_a_line_too(key):
    with pytest.raises(InputError, match=f"^params.yaml: {key.replace('__', '.')} is .{{10,300}}$"):
        check_params(changed(**{key: 2**20_000}), "params.yaml")


def test_a_constant_rate_may_lie_below_the_lr_min_that_it_does_not_use():
    assert check_params(changed(schedule={"name": "constant"}, lr_max=0.001), "params.yaml").lr_max == 0.001


def test_a_missing_file_says_where_to_run_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="params.yaml is missing; run this from the root of the repository"):
        load_params("train")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("epochs: [1\n", "error: params.yaml is not valid YAML, line 2: expected ',' or ']', but got '<stream end>'\n"),
        (
            "dataset: |\n  two\n  lines\n",
            "error: params.yaml: dataset is 'two\\nlines\\n', it must be 'cifar10', 'shapes' or 'folder'\n",
        ),
    ],
)
def test_a_stage_ends_with_that_line_and_status_1_and_no_traceback(content, line, tmp_path):
    (tmp_path / "params.yaml").write_text(content)
    imports = "from cifar.config.params import load_params; from cifar.system.stage import run"
    stage = f"{imports}; run(lambda: load_params('stats'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", stage], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", line)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with the project's params.yaml and a dvc.yaml that declares `epochs` and `seed` for train."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    params: [epochs, seed]\n  stats: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stage_reads_what_it_declares(folder):
    params = load_params("train")
    expected = read_yaml("params.yaml")
    assert (params.epochs, params.seed) == (expected["epochs"], expected["seed"])
    assert params.values() == {"epochs": expected["epochs"], "seed": expected["seed"]}


def test_reading_an_undeclared_param_is_an_error_that_names_it_and_dvc_yaml(folder):
    with pytest.raises(
        AttributeError, match="train reads lr_max, which dvc.yaml does not declare: add it to stages.train"
    ):
        _ = load_params("train").lr_max
    with pytest.raises(AttributeError, match="stats reads seed, which dvc.yaml does not declare"):
        _ = load_params("stats").seed


def test_the_layers_named_for_grad_cam_are_the_networks_own():
    from cifar.nn.networks import NETWORKS, build_network

    specs = [TypeAdapter(ModelSpec).validate_python(values) for values in (CUSTOM, RESNET, AIRNET)]
    assert {type(spec) for spec in specs} == NETWORKS.keys()
    assert {spec.name for spec in specs} == LAYERS.keys()
    for spec in specs:
        assert set(LAYERS[spec.name]) <= set(dict(build_network(spec, CIFAR, seed=0).named_children()))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
names = st.sampled_from([*GOOD, "name", "layers", "layer3", "find", "one_cycle", "proxy", "sgd"]) | st.text(max_size=5)
trees = st.recursive(
    scalars | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.integers(), inner, max_size=3),
    max_leaves=8,
)
places = st.sampled_from(
    [
        *GOOD,
        *(f"{key}__{inner}" for key, section in GOOD.items() if isinstance(section, dict) for inner in section),
        *(f"filter__{inner}" for inner in PROXY),
        *(f"filter__model__{inner}" for inner in [*AIRNET, "height"]),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(places, trees, min_size=1, max_size=2))
def test_any_value_anywhere_is_accepted_or_explained(change):
    deepest_first = sorted(change.items(), key=lambda item: -item[0].count("__"))
    whole = {"filter": copy.deepcopy(PROXY)} if any(place.startswith("filter__") for place in change) else {}
    rest = {place: value for place, value in deepest_first if place not in whole}
    try:
        assert isinstance(check_params(changed(**whole, **rest), "params.yaml"), Params)
    except InputError as error:
        assert str(error).startswith("params.yaml: ")
