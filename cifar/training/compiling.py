"""A network compiled by torch.compile: fewer and larger kernels on a GPU."""

import sys

import torch
from torch import Tensor, nn

from cifar.system.errors import InputError


class Compiled:
    """A compiled form of `network`, which shares its weights and its mode.

    Each new shape of the input, and each mode, is compiled when it is first used. With PyTorch's deterministic
    algorithms the compiler chooses kernels without timing them, so that it chooses the same ones each time. For GPUs
    only: on a processor the kernels in `cifar.nn` are faster than compiled ones.
    """

    def __init__(self, network: nn.Module):
        options = {"deterministic": torch.are_deterministic_algorithms_enabled()}
        self.compiled = torch.compile(network, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """Raises InputError when the network cannot be compiled, for example without a C++ compiler."""
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import InductorError

        try:
            return self.compiled(images)
        except (BackendCompilerFailed, InductorError) as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise InputError(f"the network cannot be compiled: {reason}; set compile to false") from error


def compile_seconds() -> float:
    """The seconds that this process has spent on compiling, backward passes included, as torch.compile counts them."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # importing it would take a second
    return dynamo.calculate_time_spent()["total_wall_time"] if dynamo else 0.0
