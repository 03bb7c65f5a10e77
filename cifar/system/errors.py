"""Errors that a person can solve, each in one line."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 1000  # characters of an error's line, about


class InputError(ValueError):
    """A problem that the user can solve: the message names the thing, what was found and the next step."""


@contextmanager
def next_move(words: str) -> Iterator[None]:
    """An InputError in the block gets `words` as its next move: they replace what follows its first "; ".

    For files that the commands in such messages, `make repro` and so on, do not write.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{str(error).partition('; ')[0]}; {words}") from None


def one_line(error: BaseException) -> str:
    """The message of `error` in one line of about LONGEST printable characters at most.

    For an OSError the file and the reason, without the errno. Control characters, which a terminal obeys, are escaped.
    """
    if is_out_of_memory(error):
        text = _out_of_memory(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return printable(" ".join(text.split()), LONGEST, end=200)


def is_out_of_memory(error: BaseException) -> bool:
    """Did Python, NumPy, the system or PyTorch (on the CPU or a GPU) have no memory left?"""
    is_torchs = isinstance(error, RuntimeError) and re.search("can't allocate memory|out of memory", str(error))
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or bool(is_torchs)


def _out_of_memory(error: BaseException) -> str:
    size = re.search(r"(?:tried|unable) to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    wanted = f" ({size[1]} more needed)" if size else ""
    return f"out of memory{wanted}; close other programs, or lower batch_size in params.yaml"


def printable(text: str, length: int = 40, end: int = 20) -> str:
    """`text`, for example a class name, for one line of a terminal or picture.

    Control characters are escaped. A longer text than `length` characters keeps its start and the last `end` ones, with
    dots between them.
    """
    if len(text) > length:
        text = f"{text[: length - end]} ... {text[-end:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
