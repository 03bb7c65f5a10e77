"""Learning rate schedules: the whole plan at once, one learning rate a step."""

import numpy as np


def one_cycle(steps: int, peak: int, lr_min: float, lr_max: float) -> np.ndarray:
    """Linear from `lr_min` at step 0 to `lr_max` at step `peak`, linear back to `lr_min` at the last step (steps,).

    Smith, "Super-convergence" (2018), without the annihilation phase below `lr_min`.
    """
    rise = np.linspace(lr_min, lr_max, peak, endpoint=False)
    return np.concatenate([rise, np.linspace(lr_max, lr_min, steps - peak)])


def triangular(steps: int, half_cycle: int, lr_min: float, lr_max: float) -> np.ndarray:
    """Triangles between `lr_min` and `lr_max`, each `half_cycle` steps up and as many down (steps,).

    Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), policy "triangular".
    """
    phase = np.arange(steps) % (2 * half_cycle) / half_cycle  # 0 to 2: up until 1, then down
    return lr_min + (lr_max - lr_min) * (1 - np.abs(phase - 1))


def exponential(steps: int, lr_start: float, lr_end: float) -> np.ndarray:
    """The sweep of a range test: from `lr_start` to `lr_end` by a constant factor (steps,)."""
    return np.geomspace(lr_start, lr_end, steps)
