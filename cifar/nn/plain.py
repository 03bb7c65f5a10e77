"""A network rebuilt from PyTorch's own layers, for tools that know no others."""

import copy

from torch import nn

from cifar.nn.convolutions import Conv3x3
from cifar.nn.norms import NormGELU, NormReLU

ACTIVATIONS = {NormGELU: nn.GELU, NormReLU: nn.ReLU}


def plain(network: nn.Module) -> nn.Module:
    """A copy of `network` in eval mode in which each convolution, pooling, norm and activation is one of torch.nn.

    Its logits are those of `network`, up to rounding. It computes them in the same way for any number of images.
    """
    network = unfused(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv3x3):
                setattr(module, name, _convolution(layer))
            elif type(layer) in ACTIVATIONS:
                setattr(module, name, nn.Sequential(_norm(layer), ACTIVATIONS[type(layer)]()))
    return network.eval()


def unfused(network: nn.Module) -> nn.Module:
    """A copy of `network` in which max pooling is a layer of its own."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, Conv3x3) and layer.pool > 1:
                setattr(module, name, nn.Sequential(layer, nn.MaxPool2d(layer.pool)))
                layer.pool = 1
    return network


def _convolution(layer: Conv3x3) -> nn.Conv2d:
    """`layer` must not pool."""
    settings = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, bias=layer.bias is not None, **settings)
    plain.load_state_dict(layer.state_dict())
    return plain


def _norm(layer: NormGELU | NormReLU) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(layer.num_features, eps=layer.eps)
    plain.load_state_dict(layer.state_dict())
    return plain
