"""What a person sees: one line for what went wrong, and progress that suits a terminal or a log."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

POLL = 0.5  # seconds between two looks at whether the parent process still lives


class InputError(ValueError):
    """Something that a person can mend: the message says what it is, what was found and the next move."""


class Stopped(BaseException):
    """This process shall end: the message says who wants it."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`; what a person could have caused ends in one line on stderr and exit status 1.

    Ctrl-C ends in a line and status 130, SIGTERM or the death of the DVC that started the stage in one and status 143.
    Anything else is a bug and keeps its traceback, as does everything when CIFAR_TRACEBACK is set.
    """
    # DVC stays alive on Ctrl-C until its stage ends, so the stage answers for itself.
    try:
        with _heeding_the_end():
            main()
    except KeyboardInterrupt:
        _end("interrupted; `dvc repro` takes it up again", 128 + signal.SIGINT)
    except Stopped as reason:
        _end(f"{reason}; `dvc repro` takes it up again", 128 + signal.SIGTERM)
    except (InputError, OSError) as error:
        if os.environ.get("CIFAR_TRACEBACK"):
            raise
        _end(f"error: {one_line(error)}", 1)


def _end(line: str, status: int) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


@contextmanager
def _heeding_the_end() -> Iterator[None]:
    """Raise Stopped in the block on SIGTERM, and when the DVC that started it dies: its children go on."""
    parent, is_over = os.getppid(), threading.Event()

    def stop(*_) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up takes a moment
        raise Stopped("stopped" if os.getppid() == parent else "stopped, since dvc has ended")

    def watch() -> None:
        while not is_over.wait(POLL):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    before = signal.signal(signal.SIGTERM, stop)
    if "DVC_STAGE" in os.environ:  # set by DVC for its stages; who starts one by hand may well leave
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.signal(signal.SIGTERM, before)


def one_line(error: BaseException) -> str:
    """The error's own words without line breaks; an OSError's errno gives way to its file and reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def progress(items: Iterable, total: int, label: str, unit: str, **options) -> tqdm:
    """`items` with a progress bar on a terminal, and in silence where stderr is a file or a pipe."""
    return tqdm(
        items, total=total, desc=label, unit=unit, leave=False, dynamic_ncols=True, disable=not is_terminal(), **options
    )


def is_terminal() -> bool:
    """Is somebody watching? DVC hands its own stderr to the stage, so this holds under `dvc repro` too."""
    return sys.stderr.isatty()
