"""Checkpoints: the state from which an interrupted training continues, with the same result."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
from pydantic import Field

from cifar.config.fingerprint import fingerprint
from cifar.config.schema import Section
from cifar.system.device import differences
from cifar.system.errors import InputError, is_out_of_memory
from cifar.system.files import replacing
from cifar.system.processes import from_first, is_first, refuse_differences

KEEP = 2  # the newest, and the one before it in case the newest is damaged
KEEP_OTHERS = 4  # other trainings that may be continued later, about 100 MB each
WAIT = 10  # seconds: a run whose DVC has died needs some time to notice and to end


class Part(Section):
    """Which epochs, from the first to the last, ran in an environment."""

    epochs: Annotated[list[int], Field(min_length=2, max_length=2)]
    environment: dict[str, Any]


class Checkpoint(Section):
    """The content of a checkpoint."""

    epoch: Annotated[int, Field(ge=1)]
    trained_on: Annotated[list[Part], Field(min_length=1)]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training in one environment: a folder, which only one process at a time can hold.

    The folder lies outside the stage's outputs, because DVC deletes those before it runs the stage. Each file's name
    ends in its SHA-256, so that a damaged file is recognised before it is read.

    `training` names the params, code and data (see `cifar.config.fingerprint`). `environment` also decides the bits
    (see `cifar.system.device`). When another environment has run more epochs of the same training, a line says so; they
    are used only with `carry_on`. A training that has once been carried on continues without it too, and a line says
    which epochs ran in another environment. `trained_on` lists which epochs ran where, each entry as
    `{"epochs": [first, last], "environment": ...}`.

    When several processes share the training, the first one alone touches the folder, and `load` hands all of them its
    state.

    Raises InputError when another run holds the folder, or when the processes' environments or trainings differ.
    """

    def __init__(self, training: str, environment: dict[str, Any], carry_on: bool = False):
        # DVC_ROOT is the main workspace even inside `dvc exp run --temp`.
        root = Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints"
        self.training, self.environment, self.carry_on = training, environment, carry_on
        self.folder = root / self._name(environment)
        self.trained_on: list[dict[str, Any]] = []
        self.loaded: Path | None = None  # the checkpoint that `load` has returned
        refuse_differences(environment | {"training": training})
        if not is_first():
            return
        self._lock = _wait_for(self.folder / "lock", WAIT)
        if self._lock is None:
            try:
                holder = (self.folder / "lock").read_text().strip() or "unknown"
            except FileNotFoundError:
                holder = "unknown"
            raise InputError(f"process {holder} is already running this training; wait for it or stop it")
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._prune()

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep `state`, which holds tensors and plain values, as the state after `epoch` epochs."""
        if not is_first():
            return
        if self.trained_on and self.trained_on[-1]["environment"] == self.environment:
            self.trained_on[-1]["epochs"][1] = epoch
        else:
            first = self.trained_on[-1]["epochs"][1] + 1 if self.trained_on else 1
            self.trained_on.append({"epochs": [first, epoch], "environment": self.environment})
        buffer = io.BytesIO()
        torch.save({"epoch": epoch, "trained_on": self.trained_on, "state": state}, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        with replacing(self.folder / f"{epoch:05d}-{digest}.pt") as part:
            part.write_bytes(buffer.getbuffer())
        for old in _newest_first(self.folder)[KEEP:]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, on the CPU, or None; a damaged file is renamed, with a warning."""
        state, self.loaded = from_first((self._load(), self.loaded) if is_first() else None)
        return state

    def _load(self) -> dict[str, Any] | None:
        checkpoint, elsewhere = _newest_whole(self.folder), None
        for folder in self._other_environments():
            candidate = _newest_whole(folder)
            if candidate and candidate["epoch"] > max((c["epoch"] for c in (checkpoint, elsewhere) if c), default=0):
                elsewhere = candidate
        if elsewhere:
            message = f"this training has reached epoch {elsewhere['epoch']} in another environment ("
            message += f"{differences(elsewhere['trained_on'][-1]['environment'], self.environment)})"
            if self.carry_on:
                print(f"{message}; continuing from there", file=sys.stderr)
                checkpoint = elsewhere
            else:
                print(f"{message}; set CARRY_ON=1 to continue from there", file=sys.stderr)
        elif checkpoint:
            self._tell_of_others(checkpoint["trained_on"])
        if checkpoint is None:
            return None
        self.trained_on, self.loaded = checkpoint["trained_on"], checkpoint["path"]
        return checkpoint["state"]

    def _tell_of_others(self, trained_on: list[dict[str, Any]]) -> None:
        """Print a line about each part of the training that ran in another environment."""
        for part in trained_on:
            if part["environment"] != self.environment:
                (first, last), what = part["epochs"], differences(part["environment"], self.environment)
                print(f"epochs {first} to {last} of this training ran in another environment ({what})", file=sys.stderr)

    def refuse(self) -> InputError:
        """Set the loaded checkpoint aside, because its state does not fit the training; the error to raise."""
        if is_first():
            set_aside(self.loaded)
        return InputError(f"{self.loaded} does not fit this training and will not be used; run `dvc repro` again")

    def discard(self) -> None:
        """Delete the checkpoints of this complete training, and those of other environments that it continued from."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in {self.folder.with_name(self._name(part["environment"])) for part in self.trained_on}:
            if folder != self.folder:
                _delete_unused(folder)

    def _prune(self) -> None:
        """Keep the checkpoints of KEEP_OTHERS trainings that no process is running: those interrupted last.

        Delete what killed processes have left half written, and the folders of trainings without a checkpoint.
        """
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)
        ours = {self.folder, *self._other_environments()}
        others = [folder for folder in self.folder.parent.iterdir() if folder.is_dir() and folder not in ours]
        others.sort(key=_changed_at, reverse=True)
        free = [(folder, lock) for folder in others if (lock := _take(folder / "lock"))]
        keep = [folder for folder, _ in free if _newest_first(folder)][:KEEP_OTHERS]
        for folder, _ in free:
            if folder not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        for _, lock in free:
            lock.close()

    def _name(self, environment: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()
        return f"{self.training}-{digest[:8]}"

    def _other_environments(self) -> list[Path]:
        """The folders of the same training in other environments."""
        return sorted(set(self.folder.parent.glob(f"{self.training}-*")) - {self.folder})


def open_checkpoints(params: dict[str, Any], environment: dict[str, Any]) -> Checkpoints:
    """The checkpoints of a training with these params, code and data; CARRY_ON says whether they are carried on."""
    return Checkpoints(f"train-{fingerprint('train', params)}", environment, carries_on())


def carries_on() -> bool:
    """Whether `CARRY_ON=1` asks to continue a training whose last epochs ran in another environment."""
    value = os.environ.get("CARRY_ON", "")
    if value not in ("", "0", "1"):
        raise InputError(f"CARRY_ON is {value!r}; set it to 1 to continue another machine's training, or unset it")
    return value == "1"


def _newest_whole(folder: Path) -> dict[str, Any] | None:
    """The content of the newest undamaged checkpoint in `folder`, on the CPU; damaged ones are renamed."""
    for path in _newest_first(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process has deleted it
            continue
        if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
            checkpoint = parse_checkpoint(content)
            if checkpoint is not None:
                return checkpoint | {"path": path}
        set_aside(path)
    return None


def parse_checkpoint(content: bytes) -> dict[str, Any] | None:
    """The checkpoint in a file's bytes, or None if it is another file; pickled code is never executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle, before it is refused
            checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        Checkpoint.model_validate(checkpoint)
        return checkpoint
    except Exception as error:  # the bytes can be anything, and torch.load raises many kinds of errors
        if is_out_of_memory(error):
            raise
        return None


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, with a warning, so that it is not read again."""
    print(f"warning: checkpoint {path} is damaged and will not be used", file=sys.stderr)
    with suppress(FileNotFoundError):  # another process has set it aside
        path.rename(path.with_suffix(".damaged"))


def _changed_at(folder: Path) -> float:
    """The time of the folder's last change, in seconds; 0 when another process has deleted it meanwhile."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), reverse=True)


def _delete_unused(folder: Path) -> None:
    """Delete the checkpoints of a training that no process is running."""
    if lock := _take(folder / "lock"):
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _wait_for(path: Path, seconds: float) -> TextIO | None:
    """The lock file, held; None when another process still holds it after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        lock = _take(path)
        if lock or time.monotonic() > deadline:
            return lock
        time.sleep(0.2)


def _take(path: Path) -> TextIO | None:
    """The lock file, held until it is closed or this process ends; None when another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115 (stays open)
    except FileNotFoundError:  # another process has just deleted the folder
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # not deleted and made again meanwhile
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None
