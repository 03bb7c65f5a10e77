"""Progress that suits a terminal or a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

LINE_SECONDS = 60  # between two lines in a log


def progress(items: Iterable | None, total: int | None, label: str, unit: str, **options) -> tqdm | ProgressLines:
    """`items` with their progress: a bar on a terminal; a line a minute where stderr is a file or a pipe.

    Without `items` the caller counts with `update`. `options` are tqdm's.
    """
    if is_terminal():
        return tqdm(items, total=total, desc=label, unit=unit, leave=False, dynamic_ncols=True, **options)
    return ProgressLines(items, total, label, unit, initial=options.get("initial", 0))


class ProgressLines:
    """What this project uses of tqdm, for a log: no bar, but a line on stderr whenever a minute has passed."""

    def __init__(self, items: Iterable | None, total: int | None, label: str, unit: str, *, initial: int):
        self.items, self.total, self.label, self.unit = items, total, label, unit
        self.n = self.initial = initial
        self.started = self.written = time.monotonic()
        self.postfix = ""

    def __iter__(self) -> Iterator:
        for item in self.items:
            yield item
            self.update()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, count: int = 1) -> None:
        self.n += count
        now = time.monotonic()
        if now - self.written >= LINE_SECONDS:
            self.written = now
            print(self._line((now - self.started) / 60), file=sys.stderr, flush=True)

    def _line(self, minutes: float) -> str:
        """For example `train: 25% of 6,000 images, 3 min left, loss 0.512`."""
        if self.total is None:
            return f"{self.label}: {self.n:,} {self.unit}"
        left = minutes * (self.total - self.n) / max(1, self.n - self.initial)
        return (
            f"{self.label}: {self.n / self.total:.0%} of {self.total:,} {self.unit}, {left:.0f} min left{self.postfix}"
        )

    def set_postfix(self, refresh: bool = False, **values: str) -> None:
        self.postfix = "".join(f", {name} {value}" for name, value in values.items())

    def write(self, text: str) -> None:
        print(text, flush=True)


def is_terminal() -> bool:
    """Is stderr a terminal? It is under `dvc repro` too, because DVC hands its own stderr to the stage."""
    return sys.stderr.isatty()
