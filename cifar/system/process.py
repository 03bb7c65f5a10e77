"""How a stage starts and ends: signals, and one line for an error."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cifar.system.memory import restart_without_block_caches

POLL = 0.5  # seconds between two checks that the parent process is alive
GRACE = 10  # seconds that cleaning up may take
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped"}
REPRO = "run `dvc repro` to continue"
LONGEST = 1000  # characters of an error's line
LOST = 75  # exit status of one of several processes when another has ended or does not answer


def _ancestors() -> list[int]:
    """The number of the parent process, and of those above it as far as DVC.

    DVC starts a stage through a shell. Some shells become the stage (bash). Others wait for it (dash), even after DVC
    has ended.
    """
    ancestors = [os.getppid()]
    if "DVC_STAGE" in os.environ:
        import psutil  # which DVC needs too, so it is there

        with suppress(psutil.Error):
            while "DVC_STAGE" in (above := psutil.Process(ancestors[-1])).environ():
                ancestors.append(above.ppid())
    return ancestors


ANCESTORS = _ancestors()  # at the start


class InputError(ValueError):
    """A problem that the user can solve: the message names the thing, what was found and the next step."""


class Stopped(BaseException):
    """This process must end, with exit status `status`; the message says why."""

    def __init__(self, reason: str, status: int):
        super().__init__(reason)
        self.status = status


def start_stage(module: str) -> None:
    """Prepare this process for a stage, before the imports that take seconds; called with the stage's `__name__`.

    Memory: the process restarts once, with the settings of glibc that training needs. Signals: until `run` handles
    them, Ctrl-C and SIGTERM end the process in one line, without cleaning up, because nothing has been written yet.
    Messages: matplotlib does not warn of a home folder that may not be written, nor PyTorch's C++ code of connections
    that are lost. An imported stage (in a test, for example) is not `__main__`, and nothing happens.
    """
    if module == "__main__":
        restart_without_block_caches()
        for number in SIGNALS:
            signal.signal(number, _end_at_once)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run(main: Callable[[], None], next_move: str = REPRO) -> None:
    """Call `main`; an error that the user could have caused ends in one line on stderr and exit status 1.

    Running out of memory is one. Ctrl-C ends in one line and status 130. SIGTERM, or the death of the DVC process
    that started the stage, ends in one line and status 143. These lines end with `next_move`. Any other exception is a
    bug and keeps its traceback. With CIFAR_TRACEBACK set, every error keeps it.
    """
    # DVC does not stop on Ctrl-C before its stage has ended, so the stage has to handle the signal.
    try:
        with _raising_stopped(next_move):
            main()
    except Stopped as stopped:
        _end(f"{stopped}; {next_move}", stopped.status)
    except Exception as error:
        is_bug = not (isinstance(error, InputError | OSError) or is_out_of_memory(error))
        if is_bug or os.environ.get("CIFAR_TRACEBACK"):
            raise
        _end(f"error: {one_line(error)}", 1)


def still_wanted() -> None:
    """Raise Stopped if DVC started this stage and has died: another run may be writing the same files by now."""
    if _is_abandoned():
        raise Stopped("stopped because DVC has ended", 128 + signal.SIGTERM)


def _is_abandoned() -> bool:
    """Has DVC ended (it sets DVC_STAGE), or the launcher? A person who starts a stage by hand may log out."""
    if is_one_of_several():  # its launcher passes its own number, because it may have ended before this process asks
        return os.getppid() != int(os.environ["CIFAR_LAUNCHER"])
    return "DVC_STAGE" in os.environ and _ancestors() != ANCESTORS


def is_one_of_several() -> bool:
    """Is this one of the processes that torchrun's launcher has started for a stage?"""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _end(line: str, status: int) -> None:
    """End with a line on stderr; one process of several leaves it to the launcher, which prints one line for all."""
    if is_one_of_several():
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": line, "timestamp": int(time.time())}, file)
    else:
        print(_with_own_command(line), file=sys.stderr)
    raise SystemExit(status) from None


def _end_at_once(number: int, _=None, next_move: str = REPRO) -> None:
    if not is_one_of_several():
        os.write(2, _with_own_command(f"{SIGNALS[number]}; {next_move}\n").encode())
    os._exit(128 + number)


def _with_own_command(line: str) -> str:
    """`line` with `make demo` in place of `dvc repro` in a demo: at the root that command starts a real training."""
    command = os.environ.get("CIFAR_AGAIN")
    return re.sub(r"`(dvc|make) repro( \w+)?`", lambda _: f"`{command}`", line) if command else line


@contextmanager
def _raising_stopped(next_move: str) -> Iterator[None]:
    """Raise Stopped in the block on Ctrl-C, on SIGTERM, and when the DVC process that started the stage dies.

    Only the first signal counts. Code that swallows the exception, or needs more than GRACE seconds to clean up, is cut
    short.
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
                if not is_over.wait(GRACE):  # it waits for another process, outside Python, where no signal is handled
                    _end_at_once(signal.SIGTERM, next_move=next_move)
                return

    handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    threading.Thread(target=watch, daemon=True).start()
    try:
        still_wanted()
        yield
    finally:
        is_over.set()
        if grace:
            grace.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def one_line(error: BaseException) -> str:
    """The message of `error` in one line of at most LONGEST printable characters.

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

    Control characters are escaped. A longer text than `length` characters keeps its start and the last `end` ones.
    """
    if len(text) > length:
        text = f"{text[: length - end]} ... {text[-end:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
