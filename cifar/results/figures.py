"""Figures as PNG files, whose bytes depend only on what is drawn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from cifar.system.files import replacing

# The settings that matplotlib ships with; a matplotlibrc of the user or of the working directory is not among them.
DEFAULTS = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}


@contextmanager
def matplotlib_defaults() -> Iterator[None]:
    """Draw, measure and save under the settings that matplotlib ships with; for a function, use it as a decorator.

    A letter that matplotlib's font lacks is drawn as a box, without a warning.
    """
    with matplotlib.rc_context(DEFAULTS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_png(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write `figure` as a PNG without matplotlib's version in its metadata."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=dpi, metadata={"Software": None})
