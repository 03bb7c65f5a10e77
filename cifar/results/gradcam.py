"""Grad-CAM: heatmaps of the image regions that raise the logit of a class, and their drawing over the images."""

import re
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.config.schema import GradCAM
from cifar.nn.inference import images_at_once, normalise
from cifar.nn.saved import Model
from cifar.results.heatmaps import METHODS, Heatmaps, shown_mistakes
from cifar.results.predictions import Predictions
from cifar.system.errors import InputError

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey image (ITU-R BT.601)
TARGETS = {"predicted": "predicted", "label": "true"}
PIXELS = 64 * 32 * 32  # of the images at a time, to bound the memory


def heatmap_strips(model: Model, images: np.ndarray, targets: np.ndarray, settings: GradCAM) -> np.ndarray:
    """Strips uint8 (N, H, W', 3): each image, then one heatmap for each layer, for the classes `targets` (N,)."""
    check_layers(model.network, settings.layers)
    gap = np.full_like(images[:, :, :1], 255)
    panels = [images]
    for layer in settings.layers:
        panels += [gap, overlay(images, in_blocks(model, images, targets, layer=layer, method=settings.method))]
    return np.concatenate(panels, axis=2)


def map_mistakes(
    model: Model, images: np.ndarray, predictions: Predictions, mistakes: np.ndarray, *, settings: GradCAM
) -> Heatmaps:
    """Heatmaps of the last of the layers for the mistakes that the report shows, the first of `mistakes` (M,).

    `images` uint8 (N, H, W, 3) and `predictions` are those of all test images.
    """
    check_layers(model.network, settings.layers)
    shown = mistakes[: shown_mistakes(images.shape[1:3])]
    drawn = (
        in_blocks(model, images[shown], classes[shown], layer=settings.layers[-1], method=settings.method)
        for classes in (predictions.predicted, predictions.labels)
    )
    return Heatmaps(shown, *((255 * maps).round().astype(np.uint8) for maps in drawn))


def in_blocks(model: Model, images: np.ndarray, targets: np.ndarray, *, layer: str, method: str) -> np.ndarray:
    """`heatmaps` of images uint8 (N, H, W, 3) and their `targets` (N,), for so many at a time as the memory holds."""
    block, maps = images_at_once(images.shape, PIXELS), np.zeros(images.shape[:3], np.float32)
    for start in range(0, len(images), block):
        part = slice(start, start + block)
        inputs = normalise(torch.from_numpy(images[part]), model.statistics)
        classes = torch.from_numpy(targets[part].astype(np.int64))
        maps[part] = heatmaps(model.network, inputs, layer, classes, method=method)
    return maps


def check_layers(network: nn.Module, layers: Sequence[str]) -> None:
    """Raise InputError if the network lacks one of the layers."""
    names = {name for name, _ in network.named_modules()}
    for layer in layers:
        if layer not in names:
            available = ", ".join(name for name, _ in network.named_children() if re.fullmatch("prep|layer[0-9]", name))
            raise InputError(f"gradcam.layers names {layer!r}, but the trained model has {available}; run `dvc repro`")


def overlay(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, 3): the grey image and the colours of heatmaps (N, H, W) in [0, 1], half and half."""
    grey = images @ np.array(LUMA)
    colours = 255 * matplotlib.colormaps["inferno"](maps)[..., :3]
    return ((grey[..., None] + colours) / 2).round().astype(np.uint8)


def legend(settings: GradCAM) -> str:
    """A sentence that says what the heatmaps show."""
    return (
        f"{METHODS[settings.method]} of {', '.join(settings.layers)} for the {TARGETS[settings.target]} class, "
        "each map from its least (grey) over purple to its most (yellow)"
    )


def heatmaps(network: nn.Module, images: Tensor, layer: str, targets: Tensor, *, method: str) -> np.ndarray:
    """Heatmaps float32 (N, H, W) in [0, 1]: where the activations of `layer` raise the logits of `targets` (N,).

    `images` float32 (N, C, H, W) are normalised. The network is in eval mode; its parameters' gradients do not change.
    `layer` names a submodule, for example layer3 or layer1.4. A map without a positive value becomes zeros,
    and so does one that is the same everywhere, as a map of 1x1 is.

    Selvaraju et al., "Grad-CAM", 2017: the layer's activations are weighted and summed over the channels, then ReLU.
    As in the package grad-cam 1.5.5, the map is stretched to [0, 1], enlarged bilinearly, and stretched again.
    """
    activations, logits = _run(network, images, layer)
    (gradients,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), activations)
    activations = activations.detach()  # (N, K, h, w), like the gradients
    weights = CHANNEL_WEIGHTS[method](activations, gradients)  # (N, K)
    maps = torch.einsum("nk,nkhw->nhw", weights, activations).relu()
    enlarged = F.interpolate(_stretch(maps)[:, None], images.shape[2:], mode="bilinear", align_corners=False)
    return _stretch(enlarged[:, 0]).cpu().numpy()


def _run(network: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The activations of `layer`, ready for autograd, and the logits that depend on them."""
    kept = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # the next layer gets a copy, since it may be an in-place ReLU

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        logits = network(images)
    finally:
        handle.remove()
    return kept[0], logits


def _mean_gradient(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM's channel weights (N, K): the mean gradient over all positions."""
    return gradients.mean((2, 3))


def _positive_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s channel weights (N, K): a weighted sum of the positive gradients.

    Chattopadhay et al., 2018, equations 5, 7 and 19. The constant in the denominator is not in the paper; it is the
    package grad-cam's.
    """
    positive = gradients.relu()
    mass = activations.sum((2, 3), keepdim=True)
    alphas = positive**2 / (2 * positive**2 + mass * positive**3 + 1e-6)
    return (alphas * positive).sum((2, 3))


CHANNEL_WEIGHTS = {"gradcam": _mean_gradient, "gradcam++": _positive_gradients}


def _stretch(maps: Tensor) -> Tensor:
    """Maps (N, H, W), each shifted and scaled to [0, 1]; a constant map becomes 0."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
