"""A trained model as ONNX: one file for every program that reads this format, without this project and PyTorch."""

import json

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from cifar.data.splits import Statistics
from cifar.nn.inference import PIXELS, images_at_once, normalise
from cifar.nn.plain import plain
from cifar.nn.saved import Model
from cifar.system.errors import InputError
from cifar.system.progress import progress

OPSET = 20  # the first version of ONNX's operators with GELU, from November 2023
TOLERANCE = 1e-3  # the largest difference between two logits that is allowed, if no logit is above 100
RELATIVE_TOLERANCE = 1e-5  # the same, divided by the largest logit, if above 100: 84 times float32's machine epsilon


class _FromPixels(nn.Module):
    """Images uint8 (N, S, S, 3) to logits (N, C): the normalisation, then the network."""

    def __init__(self, network: nn.Module, statistics: Statistics):
        super().__init__()
        self.network, self.statistics = network, statistics

    def forward(self, images: Tensor) -> Tensor:
        return self.network(normalise(images, self.statistics))


def to_onnx(model: Model) -> bytes:
    """`model` as an ONNX file: `images` uint8 (N, S, S, 3) to `logits` float32 (N, C), for any N.

    The metadata has the names of the classes as JSON, and S as `size`. The bytes depend on the model and the versions
    of torch and onnxscript, not on the folder: where in the code each operator comes from is left out.
    """
    example = torch.zeros(2, model.image_size, model.image_size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        _FromPixels(plain(model.network), model.statistics).eval(),
        (example,),
        dynamo=True,
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    exported = program.model_proto
    graph = exported.graph
    del graph.value_info[:]  # shapes between the operators, which programs work out themselves
    for part in (exported, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    exported.producer_version = torch.__version__.split("+")[0]  # without the kind of build, such as +cpu
    metadata = {"classes": json.dumps(model.classes, ensure_ascii=False), "size": str(model.image_size)}
    onnx.helper.set_model_props(exported, metadata)
    onnx.checker.check_model(exported, full_check=True)
    return exported.SerializeToString(deterministic=True)


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """Logits float32 (N, C) of images uint8 (N, S, S, 3), by onnxruntime on as many threads as PyTorch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    batch_size = images_at_once(images.shape, PIXELS)
    starts = range(0, len(images), batch_size)
    batches = (
        images[start : start + batch_size] for start in progress(starts, len(starts), "onnx", "batches", delay=1)
    )
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in batches])


def compare(exported: np.ndarray, logits: np.ndarray) -> dict[str, float | int]:
    """The largest difference between the logits (N, C) of the file and the network, and how many classes differ.

    Two predicted classes can only differ where the network's two largest logits lie closer than twice this difference.
    Raises InputError if a logit of the network is not finite, or if the difference is larger than rounding explains.
    """
    if not np.isfinite(logits).all():
        raise InputError("the network gives logits that are not finite; train again with a lower lr_max")
    difference = float(np.abs(exported - logits).max())
    allowed = max(TOLERANCE, RELATIVE_TOLERANCE * float(np.abs(logits).max()))
    if not difference <= allowed:  # so that NaN is refused too
        raise InputError(
            f"the ONNX file's logits differ from the network's by up to {difference:.2g}, "
            f"expected {allowed:.2g} at most; nothing is written; compare the installed packages with constraints.txt"
        )
    differing = int(np.count_nonzero(exported.argmax(axis=1) != logits.argmax(axis=1)))
    return {"onnx_difference": float(f"{difference:.2g}"), "onnx_differing": differing}
