"""What a person sees: one line for what they could have caused, everything for a bug."""

import io
import signal
import subprocess
import sys

import pytest

from cifar.console import InputError, is_terminal, one_line, progress, run


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("batch_size is 0,\n  it must be above 0"), "error: batch_size is 0, it must be above 0\n"),
        (
            FileNotFoundError(2, "No such file or directory", "data/x.npy"),
            "error: data/x.npy: No such file or directory\n",
        ),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (OSError("disk on fire"), "error: disk on fire\n"),
    ],
)
def test_what_a_person_could_have_caused_is_one_line_and_status_1(error, line, capsys):
    with pytest.raises(SystemExit) as stop:
        run(raising(error))
    assert stop.value.code == 1
    assert capsys.readouterr().err == line


WORKING = """
import sys, time
from cifar.console import run

def main():
    try:
        print("working", flush=True)
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned up", flush=True)

run(main)
"""


def start(*before: str) -> subprocess.Popen:
    """A process that works until it is told to end, and has begun to; `before` are the words that start it."""
    command = [*before, sys.executable, "-c", WORKING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("number", "word", "status"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "stopped", 143)]
)
def test_ctrl_c_and_sigterm_end_in_one_line_and_the_status_of_the_signal(number, word, status):
    process = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("cleaned up\n", f"{word}; `dvc repro` takes it up again\n", status)


def test_a_stage_whose_dvc_is_killed_ends_by_itself(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    # The parent is a shell that, unlike DVC, waits with a child that it does not become.
    shell = start("sh", "-c", '"$@"; exit $?', "sh")
    shell.kill()
    out, err = shell.communicate(timeout=20)  # the pipes close when the child has ended
    assert (out, err) == ("cleaned up\n", "stopped, since dvc has ended; `dvc repro` takes it up again\n")


def test_afterwards_sigterm_means_what_it_did_before():
    before = signal.getsignal(signal.SIGTERM)
    run(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_cifar_traceback_shows_where_an_input_error_came_from(monkeypatch):
    monkeypatch.setenv("CIFAR_TRACEBACK", "1")
    with pytest.raises(InputError):
        run(raising(InputError("wrong")))


def test_a_main_that_succeeds_says_nothing(capsys):
    run(lambda: None)
    assert capsys.readouterr() == ("", "")


def test_one_line_has_no_line_breaks():
    assert one_line(ValueError("a\n\tb\r\n c")) == "a b c"


def test_progress_is_silent_without_a_terminal():
    counted = "from cifar.console import progress; print(sum(progress(range(4), 4, 'count', 'number')))"
    ended = subprocess.run([sys.executable, "-c", counted], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("6\n", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_draws_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert is_terminal()
    assert list(progress(range(4), 4, "count", "number", file=terminal, mininterval=0)) == [0, 1, 2, 3]
    assert "count" in terminal.getvalue() and "4/4" in terminal.getvalue()
