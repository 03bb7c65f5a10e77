"""A trained model on disk: what is loaded is what was saved, and nothing else is taken for it."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load, save
from specs import AIRNET, CIFAR, CUSTOM_RESNET
from torch import Tensor

from cifar.data.splits import Statistics
from cifar.nn.networks import Task, build_network
from cifar.nn.saved import Model, check_fits, load_model, save_model
from cifar.system.errors import InputError, one_line

SPEC = {"name": "custom_resnet", "logit_scale": 0.125}
STATISTICS = Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CLASSES = [f"class{k}" for k in range(10)]


def network() -> torch.nn.Module:
    """In eval mode, with statistics of some batch."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        built = build_network(CUSTOM_RESNET, CIFAR, seed=0)
        built(torch.randn(8, 3, 32, 32))
    return built.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(Model(network(), STATISTICS, CLASSES), CUSTOM_RESNET, {"threads": 2}, folder=folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "models"))


def test_a_model_for_images_of_another_size_says_so(tmp_path):
    built = build_network(AIRNET, Task(48, 3), seed=0)
    save_model(Model(built, STATISTICS, list("abc"), 48), AIRNET, {}, folder=tmp_path)
    model = load_model(tmp_path)
    assert (model.image_size, model.classes) == (48, ["a", "b", "c"])
    with torch.no_grad():
        assert model.network(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    check_fits(model, ["a", "b", "c"], 48)
    with pytest.raises(InputError, match="the model is for images of 48x48 pixels, those of the data set have 32x32"):
        check_fits(model, ["a", "b", "c"], 32)
    with pytest.raises(InputError, match="the model has 3 classes, the data set has 2"):
        check_fits(model, ["a", "b"], 48)


def test_a_loaded_model_gives_equal_logits(saved, images):
    model = load_model(saved)
    assert not any(module.training for module in model.network.modules())
    assert model[1:] == (STATISTICS, CLASSES, 32)
    with torch.no_grad():
        assert torch.equal(model.network(images), network()(images))


def test_a_model_saved_twice_has_equal_bytes(saved, tmp_path):
    save_model(Model(network(), STATISTICS, CLASSES), CUSTOM_RESNET, {"threads": 2}, folder=tmp_path)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_the_card_holds_what_the_weights_do_not(saved):
    assert json.loads((saved / "model.json").read_text()) == {
        "network": SPEC,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
        "classes": CLASSES,
        "sha256": hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest(),
        "environment": {"threads": 2},
    }


def replace_weights(folder: Path, content: bytes) -> None:
    """Put other weights into the folder, with a card that says they are the right ones."""
    (folder / "model.safetensors").write_bytes(content)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"sha256": hashlib.sha256(content).hexdigest()}))


DAMAGED = r"model.safetensors is damaged or from another training than model.json; delete it and run `make repro`"


def test_damaged_weights_are_refused(copied):
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:1000], whole[:-1], b"\xff" * 100, b"hello" + whole):
        path.write_bytes(content)
        with pytest.raises(InputError, match=DAMAGED):
            load_model(copied)
        replace_weights(copied, content)
        with pytest.raises(InputError, match=DAMAGED):
            load_model(copied)


@pytest.mark.parametrize(("dtype", "bits"), [("F4", 4), ("F8_E8M0", 8)])
def test_weights_of_a_type_that_pytorch_lacks_are_damaged(copied, dtype, bits):
    header = json.dumps({"weight": {"dtype": dtype, "shape": [2], "data_offsets": [0, bits // 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(bits // 4)
    assert safetensors.deserialize(content)[0][1]["dtype"] == dtype  # the file is valid
    replace_weights(copied, content)
    with pytest.raises(InputError, match=DAMAGED):
        load_model(copied)


def test_other_weights_are_not_read_before_their_digest_is_known(copied, monkeypatch):
    monkeypatch.setattr("cifar.nn.saved.load", None)
    (copied / "model.safetensors").write_bytes(b"what a reader of weights should not see")
    with pytest.raises(InputError, match=DAMAGED):
        load_model(copied)


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), MemoryError()])
@pytest.mark.parametrize("step", ["cifar.nn.saved.build_network", "torch.nn.Module.load_state_dict"])
def test_memory_that_runs_out_is_not_taken_for_damage(saved, monkeypatch, step, error):
    """Who is told to delete the model loses a training."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(step, fail)
    with pytest.raises(type(error)) as caught:
        load_model(saved)
    assert one_line(caught.value).startswith("out of memory; close other programs")


def test_another_networks_weights_are_refused(copied):
    weights = load((copied / "model.safetensors").read_bytes())
    narrow = weights | {"prep.0.bias": torch.zeros(32)}
    fewer = {name: value for name, value in weights.items() if name != "linear.bias"}
    for other in ({"weight": torch.zeros(3)}, narrow, fewer, weights | {"extra": torch.zeros(1)}):
        replace_weights(copied, save(other))
        with pytest.raises(InputError, match="model.safetensors does not fit .*model.json; delete both and run"):
            load_model(copied)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(copied, value):
    weights = load((copied / "model.safetensors").read_bytes())
    weights["layer2.1.running_var"][3] = value
    replace_weights(copied, save(weights))
    with pytest.raises(InputError, match="model.safetensors holds weights that are not finite"):
        load_model(copied)


def test_weights_that_are_not_finite_in_float32_are_refused(copied):
    weights = load((copied / "model.safetensors").read_bytes())
    weights["linear.weight"] = torch.full((10, 512), 1e300, dtype=torch.float64)
    replace_weights(copied, save(weights))
    with pytest.raises(InputError, match="model.safetensors holds weights that are not finite"):
        load_model(copied)


def test_weights_of_eight_bits_are_read(copied):
    weights = load((copied / "model.safetensors").read_bytes())
    weights["linear.weight"] = torch.full((10, 512), 0.5).to(torch.float8_e4m3fn)
    replace_weights(copied, save(weights))
    assert (load_model(copied).network.linear.weight == 0.5).all()


def test_the_card_tells_where_the_epochs_ran_if_that_was_elsewhere(tmp_path):
    elsewhere = {"epochs": [1, 2], "environment": {"threads": 4}}
    here = {"epochs": [3, 8], "environment": {"threads": 2}}
    model = Model(network(), STATISTICS, CLASSES)
    for parts, is_told in ([], False), ([here], False), ([elsewhere], True), ([elsewhere, here], True):
        save_model(model, CUSTOM_RESNET, {"threads": 2}, trained_on=parts, folder=tmp_path)
        card = json.loads((tmp_path / "model.json").read_text())
        assert card.get("trained_on") == (parts if is_told else None)
