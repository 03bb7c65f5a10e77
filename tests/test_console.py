"""What a person sees: one line for what they could have caused, everything for a bug."""

import io
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


def test_an_interruption_is_one_word_and_status_130(capsys):
    with pytest.raises(SystemExit) as stop:
        run(raising(KeyboardInterrupt()))
    assert stop.value.code == 130  # 128 + SIGINT, as a shell reports it
    assert capsys.readouterr().err == "interrupted\n"


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
