"""The model as ONNX: only known operators, any number of images, the network's logits, the same bytes everywhere."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from projects import ROOT
from specs import AIRNET, CIFAR, CUSTOM_RESNET, RESNET18, STATISTICS, changed
from torch import nn

from cifar.nn.exported import compare, run_onnx, to_onnx
from cifar.nn.inference import predict
from cifar.nn.networks import Task, build_network
from cifar.nn.plain import plain
from cifar.nn.saved import Model, load_model
from cifar.system.errors import InputError

CLASSES = ["plain", 'with "quotes"', "Käse", *(f"class {k}" for k in range(3, 10))]
COMMON = {"Add", "Cast", "Conv", "Gemm", "Mul", "Reshape", "Sub", "Transpose"}
GROUPS = {"InstanceNormalization", "Shape"}  # what group norm is made of before version 21 of the operators
OPERATORS = {
    "custom_resnet": (CUSTOM_RESNET, COMMON | {"BatchNormalization", "MaxPool", "Relu"}),
    "resnet18": (RESNET18, COMMON | {"AveragePool", "Relu"}),
    "resnet18, layer norm": (changed(RESNET18, norm="layer"), COMMON | GROUPS | {"AveragePool", "Relu"}),
    "airnet": (changed(AIRNET, depth=3), COMMON | {"BatchNormalization", "Gelu", "MaxPool"}),
}


def trained(spec) -> Model:
    """A model whose norms have other statistics, weights and biases than new ones, as after training."""
    network = build_network(spec, CIFAR, seed=0).eval()
    random = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=random)
            layer.running_var.uniform_(0.5, 2, generator=random)
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            layer.weight.data.uniform_(0.5, 1.5, generator=random)
            layer.bias.data.normal_(0, 0.2, generator=random)
    return Model(network, STATISTICS, CLASSES)


def open_session(file: bytes | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=OPERATORS)
def exported(request) -> tuple[str, Model, bytes]:
    model = trained(OPERATORS[request.param][0])
    return request.param, model, to_onnx(model)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), dtype=np.uint8)


def test_a_plain_network_has_only_layers_of_pytorch_and_the_same_logits(exported, images):
    _, model, _ = exported
    network = plain(model.network)
    leaves = [
        layer
        for layer in network.modules()
        if not list(layer.children()) and next(layer.parameters(), None) is not None
    ]
    assert len(leaves) > 10 and all(type(layer).__module__.startswith("torch.nn.") for layer in leaves)
    expected = predict(model.network, images[:7], STATISTICS)
    np.testing.assert_allclose(predict(network, images[:7], STATISTICS), expected, rtol=1e-4, atol=1e-5)


def test_the_file_has_the_operators_that_every_runtime_knows_and_no_others(exported):
    name, _, content = exported
    file = onnx.load_from_string(content)
    assert {node.op_type for node in file.graph.node} == OPERATORS[name][1]
    assert {node.domain for node in file.graph.node} == {""} and not file.functions
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 20)]


def test_any_number_of_images_gets_the_logits_of_the_network(exported, images):
    name, model, content = exported
    counts = (1, 7, 500) if name == "airnet" else (1, 7)  # the small one
    expected = predict(model.network, images[: max(counts)], STATISTICS)
    session = open_session(content)
    for count in counts:
        (logits,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-4, atol=1e-5)


def test_its_input_output_and_metadata_say_how_to_use_it(exported):
    session = open_session(exported[2])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 32, 32, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["N", 10])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES and metadata["size"] == "32"


def test_images_of_another_size_and_a_few_classes_are_exported_as_such():
    network = build_network(AIRNET, Task(size=50, classes=3), seed=0)
    content = to_onnx(Model(network, STATISTICS, ["a", "b", "c"], image_size=50))
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 50, 3), dtype=np.uint8)
    expected = predict(network, images, STATISTICS)
    np.testing.assert_allclose(run_onnx(content, images), expected, rtol=1e-4, atol=1e-5)
    assert open_session(content).get_modelmeta().custom_metadata_map == {"classes": '["a", "b", "c"]', "size": "50"}


def test_the_file_names_no_folder_and_no_line_of_code(exported):
    file = onnx.load_from_string(exported[2])
    for tensor in file.graph.initializer:
        tensor.ClearField("raw_data")  # numbers
    rest = file.SerializeToString()
    folders = ROOT, Path(torch.__file__).parent, Path.home()
    for trace in (b".py", b"File ", b"stack_trace", b"forward", *(str(folder).encode() for folder in folders)):
        assert trace not in rest, trace


def test_the_stage_in_another_folder_and_process_writes_the_same_bytes(project):
    written = (project.folder / "models/model.onnx").read_bytes()
    assert written == to_onnx(load_model(project.folder / "models"))


def test_the_metrics_are_those_of_all_test_images(project):
    metrics = json.loads((project.folder / "metrics/export.json").read_text())
    with np.load(project.folder / "data/predictions.npz") as file:
        logits = file["logits"]
    images = np.load(project.folder / "data/dataset/test_images.npy")
    own = open_session(project.folder / "models/model.onnx").run(None, {"images": images})[0]
    assert own.shape == logits.shape == (50, 10)
    assert metrics["onnx_difference"] == pytest.approx(np.abs(own - logits).max(), rel=0.5, abs=1e-6)
    assert metrics["onnx_difference"] <= 1e-3
    differing = own.argmax(axis=1) != logits.argmax(axis=1)
    second, first = np.sort(logits, axis=1)[:, -2:].T
    assert (first - second)[differing].max(initial=0) <= 2 * np.abs(own - logits).max()


def test_comparing_finds_the_largest_difference_and_the_classes_that_differ():
    logits = np.array([[1.0, 2.0, 3.0], [5.0, 4.9996, 0.0], [0.0, 0.0, 9.0]], np.float32)
    other = logits + np.array([[0, 0, 0], [0, 0.0008, 0], [-0.0002, 0, 0]], np.float32)
    assert compare(other, logits) == {"onnx_difference": 0.0008, "onnx_differing": 1}


@pytest.mark.parametrize(
    ("scale", "difference", "allowed"), [(1, 0.002, "0.001"), (1000, 0.2, "0.01"), (1, np.nan, "0.001")]
)
def test_a_difference_that_rounding_does_not_explain_is_refused(scale, difference, allowed):
    logits = np.array([[1.0, -0.5]], np.float32) * scale
    with pytest.raises(InputError, match=f"by up to .*, expected {allowed} at most; nothing is written"):
        compare(logits + np.float32(difference), logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_of_the_network_that_are_not_finite_are_refused(value):
    logits = np.array([[1.0, value], [2.0, 3.0]], np.float32)
    with pytest.raises(InputError, match="the network gives logits that are not finite; train again with a lower"):
        compare(logits, logits)
    with pytest.raises(InputError, match="by up to .*, expected 0.001 at most"):
        compare(logits, np.nan_to_num(logits, nan=0, posinf=0, neginf=0))


def test_large_logits_may_differ_by_as_many_roundings():
    logits = np.array([[1000.0, -500.0]], np.float32)
    assert compare(logits + np.float32(0.005), logits)["onnx_differing"] == 0
