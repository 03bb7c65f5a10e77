"""Runs DVC: reads what it prints, and runs experiments that end cleanly when they are stopped."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cifar.results.revisions import git
from cifar.system.errors import InputError
from cifar.system.stage import Stopped


def output_of_dvc(*words: str, folder: Path = Path()) -> str:
    """What `dvc WORDS` prints in `folder`; raises InputError with the last line of its errors when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    command = [sys.executable, "-m", "dvc", *words]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
        raise InputError(f"`dvc {words[0]}` failed in {folder.absolute()}: {said.removeprefix('ERROR: ')}")
    return ended.stdout


def git_identity() -> dict[str, str]:
    """Name and e-mail address for the commits of DVC's experiments, as Git's variables; InputError when Git has none.

    As variables they also hold in a clone, which does not inherit what is set for this repository alone.
    """
    variables = {}
    for key in "name", "email":
        configured = git("config", f"user.{key}", check=False).strip()
        for role in "AUTHOR", "COMMITTER":
            variable = f"GIT_{role}_{key.upper()}"
            variables[variable] = os.environ.get(variable) or configured
    if not all(variables.values()):
        git("rev-parse", "--git-dir")  # raises where Git does not read the repository's own settings
        raise InputError(
            "DVC's experiments need your name and e-mail address, which Git does not know; set both: `git config "
            "--global user.name NAME` and `git config --global user.email ADDRESS`"
        )
    return variables


def experiment_ref(commit: str, name: str) -> str:
    """Where DVC keeps the experiment of that name that started from `commit`."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def run_dvc(*words: str, environment: Mapping[str, str] = os.environ, **options: Any) -> int:
    """The exit status of `dvc exp run WORDS`. Raises Stopped when this process is stopped, and DVC has ended."""
    again = shlex.join(["python", "-m", "recipes", *sys.argv[1:]])  # what a stopped stage advises
    environment = {**environment, **git_identity(), "CIFAR_AGAIN": again}
    command = [sys.executable, "-m", "dvc", "exp", "run", *words]
    sys.stdout.flush()  # what we have printed stands before what DVC prints
    with subprocess.Popen(command, env=environment, **options) as dvc:  # in the end it waits for DVC
        try:
            return dvc.wait()
        except Stopped:
            end_stages_of(dvc)
            raise


def end_stages_of(dvc: subprocess.Popen) -> None:
    """End each stage that DVC runs until DVC has ended: it has moved HEAD and stashed changes, and puts them back."""
    told = set()  # a second signal would cut short what the first one began
    while dvc.poll() is None:
        for stage in {*stages_of(dvc)} - told:
            with suppress(psutil.Error):
                stage.terminate()
                told.add(stage)
        time.sleep(0.2)


def stages_of(dvc: subprocess.Popen) -> list[psutil.Process]:
    """The stage that DVC runs, if any. A shell between them ends after the stage, which has to tidy up first."""
    shell = os.environ.get("SHELL") or "/bin/sh"  # as DVC chooses it
    stages = []
    with suppress(psutil.Error):
        for process in psutil.Process(dvc.pid).children():
            if "DVC_STAGE" in process.environ():  # not a git, for example
                stages += process.children() if process.cmdline()[:1] == [shell] else [process]
    return stages
