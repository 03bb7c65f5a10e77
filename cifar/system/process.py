"""What a person sees: one line for what went wrong, and progress that suits a terminal or a log."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

POLL = 0.5  # seconds between two looks at whether the parent process still lives
GRACE = 10  # seconds that cleaning up may take
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped"}
REPRO = "`dvc repro` takes it up again"
LINE_SECONDS = 60  # between two lines of progress in a log
PARENT = os.getppid()  # the process that started this one


class InputError(ValueError):
    """Something that a person can mend: the message says what it is, what was found and the next move."""


class Stopped(BaseException):
    """This process shall end, with `status`; the message says why."""

    def __init__(self, reason: str, status: int):
        super().__init__(reason)
        self.status = status


def run(main: Callable[[], None], next_move: str = REPRO) -> None:
    """Call a stage's `main`; what a person could have caused ends in one line on stderr and exit status 1.

    Ctrl-C ends in a line and status 130, SIGTERM or the death of the DVC that started the stage in one and status 143;
    these lines end in `next_move`. Anything else is a bug and keeps its traceback, as does everything when
    CIFAR_TRACEBACK is set.
    """
    # DVC stays alive on Ctrl-C until its stage ends, so the stage answers for itself.
    try:
        with _heeding_the_end(next_move):
            main()
    except Stopped as stopped:
        _end(f"{stopped}; {next_move}", stopped.status)
    except (InputError, OSError, MemoryError) as error:
        if os.environ.get("CIFAR_TRACEBACK"):
            raise
        _end(f"error: {one_line(error)}", 1)


def end_at_once_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end this process in one line without cleaning up, until `run` takes over.

    For the seconds in which a stage imports what it needs: there is nothing to clean up yet.
    """
    for number in SIGNALS:
        signal.signal(number, _end_at_once)


def still_wanted() -> None:
    """Raise Stopped if this is a stage whose DVC has died: another run may be writing by now."""
    if _is_abandoned():
        raise Stopped("stopped, since dvc has ended", 128 + signal.SIGTERM)


def _is_abandoned() -> bool:
    """DVC sets DVC_STAGE for its stages; whoever starts one by hand may well leave."""
    return "DVC_STAGE" in os.environ and os.getppid() != PARENT


def _end(line: str, status: int) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


def _end_at_once(number: int, _=None, next_move: str = REPRO) -> None:
    os.write(2, f"{SIGNALS[number]}; {next_move}\n".encode())
    os._exit(128 + number)


@contextmanager
def _heeding_the_end(next_move: str) -> Iterator[None]:
    """Raise Stopped in the block on Ctrl-C, on SIGTERM, and when the DVC that started it dies: its children go on.

    Only the first signal counts; what swallows the exception, or takes GRACE seconds to clean up, is cut short.
    """
    is_over, grace = threading.Event(), None

    def stop(number: int, _) -> None:
        nonlocal grace
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        grace = threading.Timer(GRACE, _end_at_once, [number, None, next_move])
        grace.daemon = True
        grace.start()
        still_wanted()
        raise Stopped(SIGNALS[number], 128 + number)

    def watch() -> None:
        while not is_over.wait(POLL):
            if _is_abandoned():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    threading.Thread(target=watch, daemon=True).start()
    try:
        still_wanted()
        yield
    finally:
        is_over.set()
        if grace:
            grace.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def one_line(error: BaseException) -> str:
    """The error's own words without line breaks; an OSError's errno gives way to its file and reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def printable(text: str, length: int = 40) -> str:
    """`text`, for example a class name, for one line of a terminal or picture.

    Control characters are escaped. A text of more than `length` characters loses its middle.
    """
    if len(text) > length:
        text = f"{text[: length // 2]}...{text[len(text) - length // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
        """For example `train: 25% of 6,000 img, 3 min left, loss 0.512`."""
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
    """Is somebody watching? DVC hands its own stderr to the stage, so this holds under `dvc repro` too."""
    return sys.stderr.isatty()
