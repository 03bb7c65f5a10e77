"""What a person sees: one line for what they could have caused, everything for a bug."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar.system.errors import InputError, one_line
from cifar.system.progress import is_terminal, progress
from cifar.system.stage import run

ROOT = Path(__file__).parents[1]


OUT_OF_MEMORY = "error: out of memory{}; close other programs, or lower batch_size in params.yaml\n"


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
        (InputError("\x1b[31mred\x07\udcff"), "error: \\x1b[31mred\\x07\\udcff\n"),
        (InputError("x" * 10**7), f"error: {'x' * 800} ... {'x' * 200}\n"),
        (MemoryError(), OUT_OF_MEMORY.format("")),
        (OSError(12, "Cannot allocate memory"), OUT_OF_MEMORY.format("")),
    ],
)
def test_what_a_person_could_have_caused_is_one_line_and_status_1(error, line, capsys):
    with pytest.raises(SystemExit) as stop:
        run(raising(error))
    assert stop.value.code == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("call", "size"), [
    ("import numpy; numpy.empty(10**16, numpy.uint8)", r"8.88 PiB"),
    ("import torch; torch.empty(10**16, dtype=torch.uint8)", r"10000000000000000 bytes"),
    ("raise RuntimeError('CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has')", "20.00 GiB"),
])  # fmt: skip
def test_memory_that_runs_out_is_named_with_the_size_that_was_wanted(call, size, capsys):
    with pytest.raises(SystemExit):
        run(lambda: exec(call))
    assert capsys.readouterr().err == OUT_OF_MEMORY.format(f" ({size} more needed)")


def test_a_runtime_error_that_is_not_about_memory_is_a_bug():
    with pytest.raises(RuntimeError):
        run(raising(RuntimeError("size mismatch")))


@pytest.mark.parametrize(
    "told", ["run `dvc repro` again", "run `dvc repro evaluate`", "delete it and run `make repro`"]
)
def test_in_a_demo_messages_name_the_command_that_started_it(told, monkeypatch, capsys):
    monkeypatch.setenv("CIFAR_AGAIN", "make demo DEMO='a b'")
    with pytest.raises(SystemExit):
        run(raising(InputError(told)))
    line = capsys.readouterr().err
    assert "`make demo DEMO='a b'`" in line and "repro" not in line


def test_a_home_that_may_not_be_written_is_not_worth_a_word():
    program = "from cifar.system.stage import start_stage; start_stage(__name__)\nimport matplotlib.font_manager"
    environment = os.environ | {"HOME": "/dev/null", "MPLCONFIGDIR": "/dev/null/matplotlib"}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


WORKING = """
import sys, time
from cifar.system.stage import run

def main():
    try:
        print("working", flush=True)
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned up", flush=True)

run(main)
"""


def start(*before: str, program: str = WORKING, folder: Path = ROOT) -> subprocess.Popen:
    """A process that works until it is told to end, and has begun to; `before` are the words that start it."""
    command = [*before, sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(("arguments", "next_move"), [
    ("main", "run `dvc repro` to continue"),
    ("main, 'nothing is lost'", "nothing is lost"),
])  # fmt: skip
@pytest.mark.parametrize(
    ("number", "word", "status"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "stopped", 143)]
)
def test_ctrl_c_and_sigterm_end_in_one_line_and_the_status_of_the_signal(number, word, status, arguments, next_move):
    process = start(program=WORKING.replace("run(main)", f"run({arguments})"))
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("cleaned up\n", f"{word}; {next_move}\n", status)


def test_a_closed_stdout_is_no_error():
    ended = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-c", "from cifar.system.stage import run; run(print)"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.stderr, ended.returncode) == ("", 0)


IMPORTING = """
import os, signal, sys
def strike(event, args):
    if event == "import" and args[0] == "torch":
        os.kill(os.getpid(), int(os.environ["STRIKE"]))
sys.addaudithook(strike)
"""


@pytest.mark.parametrize(
    ("number", "word", "status"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "stopped", 143)]
)
def test_ctrl_c_and_sigterm_while_a_stage_imports_end_in_one_line_too(tmp_path, number, word, status):
    (tmp_path / "sitecustomize.py").write_text(IMPORTING)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "STRIKE": str(int(number))}
    command = [sys.executable, "-m", "stages.train"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.stderr, ended.returncode) == (f"{word}; run `dvc repro` to continue\n", status)


STUBBORN = """
import time
from cifar.system.stage import run

def main():
    print("working", flush=True)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

run(main, "nothing is lost", grace=0.5)
"""


def test_importing_a_stage_leaves_the_process_and_its_signals_alone():
    """Every module of the library and every stage: same signal handlers, same environment, no restart, no output."""
    modules = [path.relative_to(ROOT).with_suffix("").parts for path in ROOT.glob("cifar/**/*.py")]
    modules += [("stages", path.stem) for path in ROOT.glob("stages/*.py")]
    names = sorted(".".join(parts).removesuffix(".__init__") for parts in modules)
    program = (
        "import os, signal, sys, importlib\n"
        "state = lambda: [os.environ.get('GLIBC_TUNABLES'), signal.getsignal(2), signal.getsignal(15)]\n"
        "before = state()\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert state() == before"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", program, *names]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_what_swallows_the_interruption_is_cut_short():
    process = start(program=STUBBORN)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (err, process.returncode) == ("interrupted; nothing is lost\n", 130)


def test_a_stage_whose_dvc_is_killed_ends_by_itself(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    # The parent is a shell that, unlike DVC, waits with a child that it does not become.
    shell = start("sh", "-c", '"$@"; exit $?', "sh")
    shell.kill()
    out, err = shell.communicate(timeout=20)  # the pipes close when the child has ended
    assert (out, err) == ("cleaned up\n", "stopped because DVC has ended; run `dvc repro` to continue\n")


def test_a_stage_whose_dvc_is_killed_ends_by_itself_even_if_its_shell_lives_on():
    """As where SHELL is dash, or is not set: `sh -c` then stays between DVC and its stage."""
    inner = 'DVC_STAGE=train exec sh -c \'"$@"; exit $?\' sh "$@"'
    dvc = start("sh", "-c", f"({inner}); exit $?", "sh")
    dvc.kill()
    out, err = dvc.communicate(timeout=20)
    assert (out, err) == ("cleaned up\n", "stopped because DVC has ended; run `dvc repro` to continue\n")


WRITING_LATE = """
import os, time
from pathlib import Path
from cifar.system import stage
from cifar.system.files import write_text

def main():
    print("working", flush=True)
    while os.getppid() == stage.ANCESTORS[0]:
        time.sleep(0.01)
    write_text("artifact.txt", "of the old run")

stage.POLL = 60  # it will not notice by itself in time
stage.run(main)
"""


def test_a_stage_whose_dvc_is_killed_writes_nothing_over_a_newer_runs_files(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_STAGE", "evaluate")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    shell = start("sh", "-c", '"$@"; exit $?', "sh", program=WRITING_LATE, folder=tmp_path)
    (tmp_path / "artifact.txt").write_text("of the newer run")
    shell.kill()
    _, err = shell.communicate(timeout=20)
    assert err == "stopped because DVC has ended; run `dvc repro` to continue\n"
    assert (tmp_path / "artifact.txt").read_text() == "of the newer run"
    assert os.listdir(tmp_path) == ["artifact.txt"]


def test_afterwards_signals_mean_what_they_did_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(lambda: None)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


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
    counted = "from cifar.system.progress import progress; print(sum(progress(range(4), 4, 'count', 'number')))"
    ended = subprocess.run([sys.executable, "-c", counted], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("6\n", "")


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch, capsys):
    clock = iter(range(0, 1000, 25))  # seconds, at the start and after each step
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    bar = progress(None, 8, "train", "steps")
    with bar:
        for _ in range(8):
            bar.set_postfix(refresh=False, loss="0.512")
            bar.update(1)
            bar.write("an epoch")
    written = capsys.readouterr()
    assert written.err.splitlines() == [
        "train: 38% of 8 steps, 2 min left, loss 0.512",  # after 75 s of 200 s
        "train: 75% of 8 steps, 1 min left, loss 0.512",
    ]
    assert written.out == "an epoch\n" * 8


def test_progress_without_a_known_end_counts(monkeypatch, capsys):
    monkeypatch.setattr("cifar.system.progress.LINE_SECONDS", 0)
    progress(None, None, "archive", "B", unit_scale=True, initial=1000).update(500)
    assert capsys.readouterr().err == "archive: 1,500 B\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_draws_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert is_terminal()
    assert list(progress(range(4), 4, "count", "number", file=terminal, mininterval=0)) == [0, 1, 2, 3]
    assert "count" in terminal.getvalue() and "4/4" in terminal.getvalue()
