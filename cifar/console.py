"""What a person sees: one line for what went wrong, and progress that suits a terminal or a log."""

import os
import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm


class InputError(ValueError):
    """Something that a person can mend: the message says what it is, what was found and the next move."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's `main`; what a person could have caused ends in one line on stderr and exit status 1.

    Anything else is a bug and keeps its traceback, as does everything when CIFAR_TRACEBACK is set.
    """
    # DVC stays alive on Ctrl-C until its stage ends, so the stage answers for itself.
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (InputError, OSError) as error:
        if os.environ.get("CIFAR_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


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
