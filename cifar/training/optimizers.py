"""Optimizers, over groups of parameters that are moved differently."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

QUINTIC = 3.4445, -4.7750, 2.0315  # of Muon's source: the steepest at 0 of those that stay near 1


def build_optimizers(
    network: nn.Module,
    spec: dict[str, Any],
    regularise: str,
    bias_lr_factor: float,
    lr_factors: Mapping[Tensor, float] = {},
) -> list[torch.optim.Optimizer]:
    """The optimizer that `spec` names, or with `muon` two of them, over the network's trained parameters.

    Each group's `lr_factor` says how its learning rate stands to that of the schedule: for biases and the norms'
    parameters theirs in `lr_factors`, else `bias_lr_factor`; 1 for kernels and matrices. Weight decay pulls on all
    parameters but Muon's, or with `regularise: weights` on kernels and matrices alone; where the rate has a factor it
    is as much weaker, so that with SGD and AdamW it takes the same share.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights, vectors = ([p for p in trained if (p.dim() > 1) == is_weights] for is_weights in (True, False))
    filters = [parameter for parameter in weights if parameter.dim() == 4] if spec["name"] == "muon" else []
    weights = [parameter for parameter in weights if not any(parameter is other for other in filters)]
    by_factor = {bias_lr_factor: []}
    for vector in vectors:
        by_factor.setdefault(lr_factors.get(vector, bias_lr_factor), []).append(vector)
    decay = spec["weight_decay"]
    vector_decay = decay if regularise == "all" else 0.0
    groups = [
        {"params": weights, "lr_factor": 1.0, "weight_decay": decay},
        *(
            {"params": some, "lr_factor": factor, "weight_decay": vector_decay / factor}
            for factor, some in by_factor.items()
        ),
    ]
    on_gpu = trained[0].device.type == "cuda"
    implementation = {"fused": True} if on_gpu else {"foreach": True}
    if spec["name"] in ("adam", "adamw"):
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec["name"]]
        return [kind(groups, lr=0.0, betas=(spec["beta1"], spec["beta2"]), **implementation)]
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=spec["momentum"], nesterov=spec["nesterov"], **implementation)
    return [sgd, Muon(filters, spec["filter_lr_factor"], spec["filter_momentum"])] if filters else [sgd]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum made orthogonal, for convolutions' filters: Jordan, "Muon" (2024), as airbench94_muon has it.

    Each filter bank (K, C, h, w) is a matrix (K, C h w). Before a step it is scaled to a root mean square row norm of
    1, which takes the place of weight decay; the step itself has singular values of about the learning rate. PyTorch's
    own Muon takes matrices only and does not scale.
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
    """A matrix (m, n) with the same singular vectors as `matrix` and singular values of about 1, by Newton and Schulz.

    About: mostly from 0.5 to 1.5, less for those that were a hundredth of the largest. Three rounds, as in the source.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)  # no singular value above 1
    for _ in range(3):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
