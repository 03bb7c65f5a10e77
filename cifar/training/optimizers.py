"""Optimizers, over groups of parameters with learning rates and weight decays of their own."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from cifar.config.schema import AdamSpec, MuonSpec, OptimizerSpec

QUINTIC = 3.4445, -4.7750, 2.0315  # from Muon's source: steep at 0, and close to 1 for singular values near 1


def is_weight(parameter: Tensor) -> bool:
    """Is it a filter or a matrix? Biases and the parameters of norms are vectors."""
    return parameter.dim() > 1


def build_optimizers(
    network: nn.Module,
    spec: OptimizerSpec,
    *,
    regularise: str,
    bias_lr_factor: float,
    lr_factors: Mapping[Tensor, float] = {},
) -> list[torch.optim.Optimizer]:
    """The optimizer of the network's trained parameters; with `muon` two, one of them for the filters.

    Each group's `lr_factor` is its learning rate over the schedule's: 1 for filters and matrices; for biases and norms
    the parameter's own in `lr_factors`, else `bias_lr_factor`. With `regularise: all` weight decay acts on all
    parameters except Muon's, with `weights` on filters and matrices alone. It is divided by `lr_factor`, so that SGD
    and AdamW take the same share of every parameter in a step.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if is_weight(parameter)]
    vectors = [parameter for parameter in trained if not is_weight(parameter)]
    filters = [parameter for parameter in weights if parameter.dim() == 4] if isinstance(spec, MuonSpec) else []
    weights = [parameter for parameter in weights if not any(parameter is other for other in filters)]
    vectors_by_factor = {bias_lr_factor: []}
    for vector in vectors:
        vectors_by_factor.setdefault(lr_factors.get(vector, bias_lr_factor), []).append(vector)
    vector_decay = spec.weight_decay if regularise == "all" else 0.0
    groups = [{"params": weights, "lr_factor": 1.0, "weight_decay": spec.weight_decay}]
    for factor, members in vectors_by_factor.items():
        groups.append({"params": members, "lr_factor": factor, "weight_decay": vector_decay / factor})

    on_gpu = trained[0].device.type == "cuda"
    implementation = {"fused": True} if on_gpu else {"foreach": True}
    if isinstance(spec, AdamSpec):
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec.name]
        return [adam(groups, lr=0.0, betas=(spec.beta1, spec.beta2), **implementation)]
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov, **implementation)
    return [sgd, Muon(filters, spec.filter_lr_factor, spec.filter_momentum)] if filters else [sgd]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum made orthogonal, for convolution filters: Jordan, "Muon" (2024), as in airbench94_muon.

    The filters (K, C, h, w) of a layer are a matrix (K, C h w). Before a step they are scaled to a root mean square row
    norm of 1, in place of weight decay. The singular values of the step are about the learning rate. PyTorch's own Muon
    takes matrices only and does not scale.
    """

    def __init__(self, filters: Iterable[Tensor], lr_factor: float, filter_momentum: float):
        super().__init__(filters, {"lr": 0.0, "lr_factor": lr_factor, "filter_momentum": filter_momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            momentum = group["filter_momentum"]
            for filters in group["params"]:
                average = self.state[filters].setdefault("average", torch.zeros_like(filters))
                average.mul_(momentum).add_(filters.grad)
                direction = filters.grad.add(average, alpha=momentum)
                filters.mul_(len(filters) ** 0.5 / filters.norm())
                filters.sub_(group["lr"] * orthogonalise(direction.flatten(1)).view_as(filters))


def orthogonalise(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with the singular vectors of `matrix` and singular values near 1: three Newton-Schulz steps.

    First the matrix is divided by its Frobenius norm. Singular values above 0.013 of that norm end between 0.5 and 1.2,
    smaller ones lower. If 512 are equal, each is 0.044 of the norm.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)  # no singular value above 1
    for _ in range(3):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
