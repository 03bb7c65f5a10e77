"""How a stage starts and ends: its signals, and its exit status."""

from __future__ import annotations

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

from cifar.system.errors import InputError, is_out_of_memory, one_line
from cifar.system.memory import restart_without_block_caches

POLL = 0.5  # seconds between two checks that the parent process is alive
GRACE = 10.0  # seconds that cleaning up may take
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped"}
REPRO = "run `dvc repro` to continue"
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


def run(main: Callable[[], None], next_move: str = REPRO, *, grace: float = GRACE) -> None:
    """Call `main`; an error that the user could have caused ends in one line on stderr and exit status 1.

    Running out of memory is one. Ctrl-C ends in one line and status 130. SIGTERM, or the death of the DVC process
    that started the stage, ends in one line and status 143. Cleaning up may then take `grace` seconds. These
    lines end with `next_move`. Any other exception is a bug and keeps its traceback. With CIFAR_TRACEBACK set, every
    error keeps it.
    """
    with suppress(AttributeError):  # stdout is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that the terminal lacks
    # DVC does not stop on Ctrl-C before its stage has ended, so the stage has to handle the signal.
    try:
        with _raising_stopped(next_move, grace):
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
        return os.getppid() != int(os.environ.get("CIFAR_LAUNCHER", os.getppid()))
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
        with suppress(OSError):  # a pipe that nobody reads any more
            print(_with_own_command(line), file=sys.stderr, flush=True)
    raise SystemExit(status) from None


def _end_at_once(number: int, _=None, next_move: str = REPRO) -> None:
    if not is_one_of_several():
        with suppress(OSError):
            os.write(2, _with_own_command(f"{SIGNALS[number]}; {next_move}\n").encode())
    os._exit(128 + number)


def _with_own_command(line: str) -> str:
    """`line` with the command that goes on in place of `dvc repro`.

    In a demo that is `make demo`: `dvc repro` at the root starts a real training. On several machines each has its own.
    """
    if os.environ.get("NODES", "") not in ("", "1"):
        return line.replace(REPRO, "run the same commands on all machines to continue")
    command = os.environ.get("CIFAR_AGAIN")
    return re.sub(r"`(dvc|make) repro( \w+)?`", lambda _: f"`{command}`", line) if command else line


@contextmanager
def _raising_stopped(next_move: str, grace: float) -> Iterator[None]:
    """Raise Stopped in the block on Ctrl-C, on SIGTERM, and when the DVC process that started the stage dies.

    Only the first signal counts. Code that swallows the exception, or needs more than `grace` seconds to clean up, is
    cut short.
    """
    is_over, timer = threading.Event(), None

    def stop(number: int, _) -> None:
        nonlocal timer
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        timer = threading.Timer(grace, _end_at_once, [number, None, next_move])
        timer.daemon = True
        timer.start()
        still_wanted()
        raise Stopped(SIGNALS[number], 128 + number)

    def watch() -> None:
        while not is_over.wait(POLL):
            if _is_abandoned():
                os.kill(os.getpid(), signal.SIGTERM)
                if not is_over.wait(grace):  # it waits for another process, outside Python, where no signal is handled
                    _end_at_once(signal.SIGTERM, next_move=next_move)
                return

    handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    threading.Thread(target=watch, daemon=True).start()
    try:
        still_wanted()
        yield
    finally:
        is_over.set()
        if timer:
            timer.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)
