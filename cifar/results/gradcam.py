"""Grad-CAM: where in the image a layer finds what speaks for a class."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def heatmaps(network: nn.Module, images: Tensor, layer: str, targets: Tensor, *, method: str) -> np.ndarray:
    """Heatmaps float32 (N, H, W) in [0, 1] of what in `layer` raises the logits of the classes `targets` (N,).

    `images` float32 (N, C, H, W) are normalised; the network is in eval mode, its parameters' gradients stay untouched.
    `layer` is a submodule's name, such as layer3 or layer1.4. A map that is nowhere positive gives zeros.

    Selvaraju et al., "Grad-CAM", 2017: the layer's activations, weighted and summed over the channels, then ReLU. The
    rest is as in the package grad-cam 1.5.5: the map is stretched to [0, 1], enlarged bilinearly, stretched again.
    """
    activations, logits = _run(network, images, layer)
    (gradients,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), activations)
    activations = activations.detach()  # (N, K, h, w), as the gradients
    weights = CHANNEL_WEIGHTS[method](activations, gradients)  # (N, K)
    maps = torch.einsum("nk,nkhw->nhw", weights, activations).relu()
    enlarged = F.interpolate(_stretch(maps)[:, None], images.shape[2:], mode="bilinear", align_corners=False)
    return _stretch(enlarged[:, 0]).cpu().numpy()


def _run(network: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The activations of `layer`, for which gradients can be asked, and the logits that come of them."""
    kept = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # what follows goes on with a copy: it may be a ReLU that works in place

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        logits = network(images)
    finally:
        handle.remove()
    return kept[0], logits


def _mean_gradient(activations: Tensor, gradients: Tensor) -> Tensor:
    """The weights (N, K) of Grad-CAM: each channel's gradient, averaged over the places."""
    return gradients.mean((2, 3))


def _positive_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
    """The weights (N, K) of Grad-CAM++ (Chattopadhay et al., 2018, equations 5, 7 and 19): a sum of positive gradients.

    The constant in the denominator is that of the package grad-cam; the paper has none.
    """
    positive = gradients.relu()
    mass = activations.sum((2, 3), keepdim=True)
    alphas = positive**2 / (2 * positive**2 + mass * positive**3 + 1e-6)
    return (alphas * positive).sum((2, 3))


CHANNEL_WEIGHTS = {"gradcam": _mean_gradient, "gradcam++": _positive_gradients}


def _stretch(maps: Tensor) -> Tensor:
    """Each of the maps (N, H, W) shifted and scaled to [0, 1]; a flat one becomes 0."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
