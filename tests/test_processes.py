"""Several processes share a stage: the same bytes for any number of them, whatever happens to them."""

import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import torch
from dvc.utils.hydra import apply_overrides
from projects import ROOT, TINY, Project, create

from cifar.system.errors import InputError
from cifar.system.launch import launch
from cifar.system.machines import meeting_point

KILLS = 3  # how many at random
LONGEST = 8.0  # seconds from the start of a shared training to its end
RESULTS = {
    "lr_find": ["metrics/lr_find.json", "plots/lr_find/curve.csv"],
    "train": ["models/model.safetensors", "models/model.json", "metrics/train.json", "plots/train/history.csv"],
    "evaluate": ["metrics/evaluate.json", "data/predictions.npz", "plots/evaluate/class_accuracy.csv"],
}
# `best` has a filter, a leading average and a network that freezes a bias. Batches of 24, 24 and 12 images.
SHARED = TINY | {"shapes.train": 80, "shapes.test": 1100, "batch_size": 24, "shards": 4, "epochs": 5, "select": "best"}
SHARED |= {"model.widths": "[8,8,8]", "filter.model.widths": "[4,4,4]", "filter.share": 0.7, "l1": 1e-5}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A project with four shards and tiny networks, in which `download` and `stats` have run."""
    project = create(tmp_path_factory.mktemp("shared"))
    params = project.folder / "params.yaml"
    params.write_text((ROOT / "recipes/best.yaml").read_text())
    apply_overrides(params, [f"{key}={value}" for key, value in SHARED.items()])
    project.environment.pop("OMP_NUM_THREADS", None)  # as it is for users: cores // shards
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        for stage in "download", "stats":
            import_module(f"stages.{stage}").main()  # in this process, which has imported what they need
    return project


@pytest.fixture(scope="module")
def alone(project) -> dict[str, str]:
    """The hashes of what one process writes."""
    return {name: digest for stage in RESULTS for name, digest in hashes(project, stage, 1).items()}


def with_variables(project: Project, **variables: object) -> Project:
    return Project(project.folder, project.environment | {name: str(value) for name, value in variables.items()})


def run_stage(project: Project, stage: str) -> subprocess.CompletedProcess:
    ended = project.stage(stage)
    assert ended.returncode == 0, ended.stderr
    return ended


def hashes(project: Project, stage: str, processes: int) -> dict[str, str]:
    """Run the stage in so many processes; the hashes of its results."""
    ended = run_stage(with_variables(project, PROCESSES=processes, NODE=1), stage)  # NODE has no meaning here
    assert ended.stdout.count("written: ") == 1 and ended.stderr.count("\n") <= 1  # the first process alone speaks
    return written(project, stage)


def written(project: Project, stage: str) -> dict[str, str]:
    return {name: hashlib.sha256((project.folder / name).read_bytes()).hexdigest() for name in RESULTS[stage]}


@pytest.mark.parametrize(("stage", "processes"), [("lr_find", 2), ("train", 4), ("evaluate", 2)])
def test_the_bytes_do_not_depend_on_the_number_of_processes(project, alone, stage, processes):
    assert hashes(project, stage, processes).items() <= alone.items()


def start(project: Project, said: Path | int = subprocess.DEVNULL, stage: str = "train") -> psutil.Popen:
    """The stage on its own."""
    command = [sys.executable, "-m", f"stages.{stage}"]
    file = open(said, "w") if isinstance(said, Path) else said  # noqa: SIM115
    return psutil.Popen(command, cwd=project.folder, env=project.environment, stdout=file, stderr=subprocess.STDOUT)


def wait_for_processes(train: psutil.Popen, count: int) -> list[psutil.Process]:
    """The processes that share the training, once there are `count` of them or the training is over."""
    while train.poll() is None:
        if len(children := train.children()) >= count:
            return children
        time.sleep(0.02)
    return []


def wait_for_epoch(said: Path, train: psutil.Popen) -> None:
    while not re.search("^epoch ", said.read_text(), re.MULTILINE) and train.poll() is None:
        time.sleep(0.02)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


@pytest.mark.slow
def test_killed_at_random_and_carried_on_by_another_number_it_ends_in_the_same_bytes(project, alone):
    draw, kills, numbers = random.Random(KILLS), 0, []
    while kills < KILLS:
        numbers.append(draw.choice([1, 2, 4]))
        train = start(with_variables(project, PROCESSES=numbers[-1]))
        moment = time.monotonic() + draw.uniform(0, LONGEST)
        children = wait_for_processes(train, numbers[-1]) if numbers[-1] > 1 else []
        while time.monotonic() < moment and train.poll() is None:
            time.sleep(0.02)
        with suppress(psutil.NoSuchProcess):
            draw.choice([train, *children]).kill()
            kills += train.wait() != 0
        train.wait()
        if draw.random() < 0.5:
            assert_gone(children)  # else the next run begins while some of the last one's processes may still live
    assert hashes(project, "train", 2).items() <= alone.items()
    assert not list(project.folder.glob(".checkpoints/train-*/*.pt"))


ENDS = {
    "a process is killed": (lambda train, last: last.kill(), 1, "error: process 2 of 2 was killed (SIGKILL)"),
    "Ctrl-C": (lambda train, last: train.send_signal(signal.SIGINT), 130, "interrupted"),
    "SIGTERM": (lambda train, last: train.terminate(), 143, "stopped"),
    "a process is stuck": (
        lambda train, last: last.suspend(),
        1,
        "error: the processes of this stage have done nothing for 22 s",
    ),
}


@pytest.mark.usefixtures("alone")  # which runs `lr_find`
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] if "stuck" in what else []) for what in ENDS]
)
def test_the_end_of_a_shared_training_is_one_line(project, tmp_path, what):
    act, status, line = ENDS[what]
    said = tmp_path / "said"
    shutil.rmtree(project.folder / ".checkpoints", ignore_errors=True)  # all epochs lie ahead
    train = start(with_variables(project, PROCESSES=2), said)
    children = wait_for_processes(train, 2)
    wait_for_epoch(said, train)
    began = time.monotonic()
    act(train, max(children, key=lambda child: child.pid))
    assert (train.wait(), time.monotonic() - began < 180) == (status, True)
    assert_gone(children)
    told = [text for text in said.read_text().splitlines() if not text.startswith(("epoch", "continuing"))]
    assert [text for text in told if "images, " not in text] == [f"{line}{told[-1][len(line) :]}"]
    assert told[-1].endswith("run `dvc repro` to continue")


@pytest.mark.usefixtures("alone")
def test_as_many_processes_as_cores_at_most_the_shards_end_when_their_launcher_is_killed(project, tmp_path):
    said, expected = tmp_path / "said", min(4, 2 ** (len(os.sched_getaffinity(0)).bit_length() - 1))
    train = start(project, said)  # without PROCESSES
    children = wait_for_processes(train, expected) if expected > 1 else []
    wait_for_epoch(said, train)
    assert len({*children, *train.children()}) == (expected if expected > 1 else 0)
    train.kill()
    train.wait()
    assert_gone(children)


STOPPED = "interrupted; run the same commands on all machines to continue\n"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def two_nodes() -> dict[str, object]:
    """The environment of two "machines", both of them this one."""
    return {"NODES": 2, "RENDEZVOUS": f"127.0.0.1:{free_port()}", "PROCESSES": 1, "GLOO_SOCKET_IFNAME": "lo"}


def start_nodes(project: Project, tmp_path: Path, **second: str) -> list[tuple[psutil.Popen, Path]]:
    """The training on two machines; `second` is set on the second of them."""
    nodes, started = two_nodes(), []
    for node, variables in enumerate([{}, second]):
        said = tmp_path / f"said-{node}"
        started.append((start(with_variables(project, NODE=node, **nodes | variables), said), said))
    return started


def test_two_machines_give_the_same_bytes(project, alone, tmp_path):
    (first, said), (second, silent) = start_nodes(project, tmp_path)
    assert (first.wait(), second.wait()) == (0, 0), said.read_text() + silent.read_text()
    assert written(project, "train").items() <= alone.items()
    assert "written: " in said.read_text() and silent.read_text() == ""


# The second machine's launcher rests for a second between saying that it is done and asking whether all are. With FAILS
# the first machine's process fails when the second's has made that file and ended well.
LEAVING = """
from cifar.system.errors import InputError
from cifar.system.stage import run, start_stage
start_stage(__name__)
import os, time
from pathlib import Path
from torch.distributed.elastic.utils import store
from cifar.system.launch import launch

def arrive_and_rest(*arguments, **options):
    key = arrive(*arguments, **options)
    time.sleep(int(os.environ["NODE"]))
    return key

def main():
    launch(4)
    sign = Path(os.environ.get("FAILS", ""))
    if sign.name and os.environ["NODE"] == "1":
        sign.touch()
    elif sign.name:
        while not sign.exists():
            time.sleep(0.1)
        time.sleep(3)
        raise InputError("the disk is full")

arrive, store._barrier_nonblocking = store._barrier_nonblocking, arrive_and_rest
run(main)
"""


@pytest.mark.parametrize(
    ("variables", "ends"),
    [
        ({}, [(0, ""), (0, "")]),
        (
            {"FAILS": "sign"},
            [
                (1, "error: the disk is full\n"),
                (1, "error: the machine NODE=0 ended before it had written the results; see what it says\n"),
            ],
        ),
    ],
)
def test_the_end_of_one_machine_is_that_of_the_other(project, tmp_path, variables, ends):
    (tmp_path / "leaving.py").write_text(LEAVING)
    variables |= two_nodes()
    machines = [
        subprocess.Popen(
            [sys.executable, tmp_path / "leaving.py"],
            cwd=tmp_path,
            env=with_variables(project, NODE=node, PYTHONPATH=ROOT, **variables).environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    assert [(machine.communicate()[1], machine.returncode) for machine in machines] == [
        (said, end) for end, said in ends
    ]


def test_the_first_machine_waits_for_the_others_and_ends_on_ctrl_c(project, tmp_path):
    said, nodes = tmp_path / "said", two_nodes()
    train = start(with_variables(project, NODE=0, **nodes), said)
    address, _, port = nodes["RENDEZVOUS"].partition(":")
    while train.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection((address, int(port))):
            break
        time.sleep(0.1)
    train.send_signal(signal.SIGINT)
    assert (train.wait(60), said.read_text()) == (130, STOPPED)


WAITING = """
from cifar.system.stage import run, start_stage
start_stage(__name__)
from cifar.system import launch, machines

def refused(point):
    answers = machines_answers(point)
    print("waiting", flush=True)
    return answers

machines_answers, machines._answers = machines._answers, refused
run(lambda: launch.launch(4))
"""


def test_another_machine_waits_for_the_first_and_ends_on_ctrl_c(project, tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    waiting = subprocess.Popen(
        [sys.executable, tmp_path / "waiting.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=with_variables(project, NODE=1, PYTHONPATH=ROOT, **two_nodes()).environment, text=True,
    )  # fmt: skip
    assert waiting.stdout.readline() == "waiting\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)
    assert (waiting.returncode, said) == (130, STOPPED)


def test_machines_with_different_numbers_of_processes_are_refused(project, tmp_path):
    (first, said), (second, silent) = start_nodes(project, tmp_path, PROCESSES="2")
    assert (first.wait(), second.wait()) == (1, 1)
    line = "error: the machines have 1, 2 PROCESSES; set the same number on each\n"
    assert [said.read_text(), silent.read_text()] == [line, line]


def test_machines_with_different_params_are_refused(project, tmp_path):
    other = Project(tmp_path / "other", project.environment)
    shutil.copytree(project.folder, other.folder, symlinks=True, ignore=shutil.ignore_patterns(".checkpoints"))
    apply_overrides(other.folder / "params.yaml", ["seed=7"])
    nodes, said = two_nodes(), [tmp_path / "first", tmp_path / "second"]
    machines = [
        start(with_variables(each, NODE=node, **nodes), said[node], "lr_find")
        for node, each in enumerate([project, other])
    ]
    assert [machine.wait() for machine in machines] == [1, 1]
    assert said[0].read_text().startswith("error: process 2 differs from the first: inputs ")


def test_machines_with_different_environments_are_refused(project, tmp_path):
    (first, said), (second, _) = start_nodes(with_variables(project, OMP_NUM_THREADS=1), tmp_path, OMP_NUM_THREADS="2")
    assert (first.wait(), second.wait()) == (1, 1)
    (line,) = said.read_text().splitlines()
    assert line.startswith(
        "error: process 2 differs from the first: threads 2, here 1; all processes need the same code"
    )


WRONG = {
    "PROCESSES is 3, but must divide shards (4)": {"PROCESSES": "3"},
    "PROCESSES is 'two'; set it to a number from 1 to 1024": {"PROCESSES": "two"},
    "PROCESSES is 2 NODES with 4 PROCESSES each, but must divide": {"NODES": "2", "PROCESSES": "4"},
    "RENDEZVOUS is ''; with NODES=2 set it to address:port": {"NODES": "2", "PROCESSES": "1"},
    "RENDEZVOUS is '10.0.0.1:65536'; with": {"NODES": "2", "PROCESSES": "1", "RENDEZVOUS": "10.0.0.1:65536"},
    "RENDEZVOUS is '10.0.0.1:²'; with": {"NODES": "2", "PROCESSES": "1", "RENDEZVOUS": "10.0.0.1:²"},
    "RENDEZVOUS is 'a..b:29500'; with": {"NODES": "2", "PROCESSES": "1", "RENDEZVOUS": "a..b:29500"},
    "RENDEZVOUS is 'fd00::1:29500'; with": {"NODES": "2", "PROCESSES": "1", "RENDEZVOUS": "fd00::1:29500"},
    "NODE is 2; with NODES=2 the machines have the numbers 0 to 1": {
        **{"NODES": "2", "NODE": "2", "PROCESSES": "1", "RENDEZVOUS": "localhost:29500"}
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_number_is_refused(message, monkeypatch):
    for name in "PROCESSES", "NODES", "NODE", "RENDEZVOUS":
        monkeypatch.setenv(name, WRONG[message].get(name, ""))
    for name in "OMP_NUM_THREADS", "CIFAR_LAUNCHER":  # which `launch` sets for the processes that it starts
        monkeypatch.setenv(name, os.environ.get(name, ""))
    threads = torch.get_num_threads()
    try:
        with pytest.raises(InputError, match=f"^{re.escape(message)}"):
            launch(4)
    finally:
        torch.set_num_threads(threads)


def test_a_stage_that_torchrun_has_started_says_what_to_do_instead(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.delenv("CIFAR_LAUNCHER", raising=False)
    with pytest.raises(InputError, match="set PROCESSES instead of using torchrun$"):
        launch(1)


def test_an_address_may_be_a_name_or_of_either_version(monkeypatch):
    for point, expected in {
        "10.0.0.1:29500": ("10.0.0.1", 29500),
        "node-0.cluster:1": ("node-0.cluster", 1),
        "[fd00::1]:65535": ("fd00::1", 65535),
    }.items():
        monkeypatch.setenv("RENDEZVOUS", point)
        assert meeting_point(1, 2) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("PROCESSES", "4"), ("OMP_NUM_THREADS", "1"), ("NODES", ""), ("CIFAR_LAUNCHER", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="^PROCESSES is 4, but each process needs a GPU of its own, .* has 2; choose"):
        launch(4)


def test_a_stage_says_in_one_line_that_a_number_is_wrong(project):
    ended = with_variables(project, PROCESSES=3).stage("evaluate")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("error: PROCESSES is 3, but must divide shards (4)")
