"""Programs that run while this one watches: `python -m <module>`, stopped when nobody waits for them any more."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cifar.system.errors import InputError

GRACE = 3  # seconds that a program may take to end after SIGTERM, before SIGKILL


class Forked(multiprocessing.get_context("fork").Process):
    """A copy of this process that runs a module: it need not import again what this process has imported.

    For dry runs: an import of PyTorch and Albumentations takes three seconds of a processor. Once CUDA is in use, a
    process cannot be copied. `poll` and `wait` are those of a Popen.
    """

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self.name, timeout or 0)


def _run_here(words: Sequence[str], folder: Path, output: int) -> None:
    """Be `python -m <words>` in `folder`, with all that is printed going to the file `output`."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "")  # else a stage starts its process anew
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def running(words: Sequence[str], folder: Path, log: Path, *, limit: float, forked: bool) -> Iterator[None]:
    """Run `python -m <words>` in `folder`; all that it prints is appended to `log`. Yields as long as it runs.

    Closing this iterator stops the program. Raises InputError, with the last line of the log, when the program fails,
    and when it takes more than `limit` seconds.
    """
    with open(log, "ab") as output:
        if forked:
            program = Forked(target=_run_here, args=(list(words), folder, output.fileno()))
            program.start()
        else:
            command = [sys.executable, "-m", *words]
            program = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    deadline = time.monotonic() + limit
    try:
        while (status := program.poll()) is None:
            if time.monotonic() > deadline:
                raise InputError(f"{words[0]} took more than {limit:g} s")
            yield
    finally:
        _stop(program)
    if status:
        raise InputError(f"{words[0]} ended with status {status}: {last_line(log)}")


def _stop(program: Forked | subprocess.Popen) -> None:
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def last_line(log: Path) -> str:
    """The last line that says something: that of an error, or of a traceback."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")
