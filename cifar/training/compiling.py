"""A network compiled by torch.compile: fewer and larger kernels on a GPU."""

import sys

import torch
from torch import Tensor, nn

from cifar.system.process import InputError


class Compiled:
    """`network`, by whose weights and in whose mode it computes; compiled when it first sees a shape or a mode.

    Where deterministic algorithms are asked for, kernels are chosen without timing them: they are the same each time.
    It is for GPUs: on a processor `cifar.nn.winograd` and others do by hand what a compiler would, and more.
    """

    def __init__(self, network: nn.Module):
        options = {"deterministic": torch.are_deterministic_algorithms_enabled()}
        self.compiled = torch.compile(network, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """Raises InputError where it cannot be compiled, as without a compiler for C++."""
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import InductorError

        try:
            return self.compiled(images)
        except (BackendCompilerFailed, InductorError) as error:
            reason = " ".join(str(error).partition("\n\n")[0].split())
            raise InputError(f"the network cannot be compiled: {reason}; set compile to false") from error


def compile_seconds() -> float:
    """The seconds that this process has spent in compiling, backward passes too; of torch.compile's own count."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # to import it would take a second
    return dynamo.calculate_time_spent()["total_wall_time"] if dynamo else 0.0
