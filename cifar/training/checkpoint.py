"""Checkpoints: the state from which an interrupted training carries on as if nothing had happened."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from cifar.config.params import read_yaml
from cifar.system.files import replacing
from cifar.system.process import InputError

KEEP = 2  # the newest, and the one before it in case the newest is damaged
KEEP_OTHERS = 4  # other configurations, each of some 100 MB, that may still be carried on
WAIT = 10  # seconds that a run whose DVC has died may take to notice


def fingerprint(stage: str, params: dict[str, Any]) -> str:
    """A name for all but the environment that decides the result of `stage`: 16 hexadecimal digits.

    It covers the values of `params` and the bytes of all that dvc.yaml declares as the stage's `deps`: code and data.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=repr).encode())
    for path in read_yaml("dvc.yaml")["stages"][stage]["deps"]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one training in one environment, in a folder of its own that one process at a time may hold.

    The folder lies outside the stage's outputs, which DVC deletes before it runs the stage. Each file's name ends in
    its SHA-256, so a damaged file is known before it is read.

    `training` names the params, code and data (see `fingerprint`). `environment` is what else decides the bits (see
    `cifar.system.device`). A checkpoint of the same training from another environment is named in one line, and
    taken only with `carry_on`. `trained_on` lists which epochs ran where: `{"epochs": [first, last],
    "environment": ...}` each.
    """

    def __init__(self, training: str, environment: dict[str, Any], carry_on: bool = False):
        # DVC_ROOT is the main workspace even inside `dvc exp run --temp`.
        root = Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints"
        self.training, self.environment, self.carry_on = training, environment, carry_on
        self.folder = root / self._name(environment)
        self.trained_on: list[dict[str, Any]] = []
        self._lock = _wait_for(self.folder / "lock", WAIT)
        if self._lock is None:
            try:
                holder = (self.folder / "lock").read_text().strip() or "unknown"
            except FileNotFoundError:
                holder = "unknown"
            raise InputError(f"process {holder} is training this very configuration; wait for it or stop it")
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._prune()

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep `state`, of tensors and plain values, as that after `epoch` epochs."""
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
        """The newest whole state, on the CPU, or None; a damaged file is set aside with a warning."""
        saved, elsewhere = _newest_whole(self.folder), None
        for folder in self._other_environments():
            found = _newest_whole(folder)
            if found and found["epoch"] > max((each["epoch"] for each in (saved, elsewhere) if each), default=0):
                elsewhere = found
        if elsewhere:
            there = f"{elsewhere['epoch']} epochs of this training ran in another environment ("
            there += f"{differences(elsewhere['trained_on'][-1]['environment'], self.environment)})"
            if self.carry_on:
                print(f"{there}; carrying on from there", file=sys.stderr)
                saved = elsewhere
            else:
                print(f"{there}; with CARRY_ON=1 this run goes on from there", file=sys.stderr)
        if saved is None:
            return None
        self.trained_on = saved["trained_on"]
        return saved["state"]

    def discard(self) -> None:
        """Forget this training, which is complete, in every environment that trained a part of it."""
        for environment in [self.environment, *(part["environment"] for part in self.trained_on)]:
            shutil.rmtree(self.folder.with_name(self._name(environment)), ignore_errors=True)

    def _prune(self) -> None:
        """Forget the configurations whose training was broken off longest ago; one that is in use stays."""
        ours = {self.folder, *self._other_environments()}
        others = [folder for folder in self.folder.parent.iterdir() if folder.is_dir() and folder not in ours]
        others.sort(key=_changed_at, reverse=True)
        for folder in others[KEEP_OTHERS:]:
            if lock := _take(folder / "lock"):
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()

    def _name(self, environment: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()
        return f"{self.training}-{digest[:8]}"

    def _other_environments(self) -> list[Path]:
        """The folders of the same training in other environments."""
        return sorted(set(self.folder.parent.glob(f"{self.training}-*")) - {self.folder})


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between two environments, in words: `threads 4, here 2; precision bfloat16, here float32`."""
    told = []
    for name in sorted(there | here):
        before, now = there.get(name), here.get(name)
        if isinstance(before, list) and isinstance(now, list):  # instruction sets
            before, now = (
                " ".join(item for item in some if item not in rest) or "none more"
                for some, rest in ((before, now), (now, before))
            )
        if before != now:
            told.append(f"{name} {before}, here {now}")
    return "; ".join(told)


def _newest_whole(folder: Path) -> dict[str, Any] | None:
    """What the newest undamaged checkpoint in `folder` holds, on the CPU; a damaged one is set aside."""
    for path in _newest_first(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process has deleted it
            continue
        if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        print(f"warning: checkpoint {path} is damaged; set aside", file=sys.stderr)
        with suppress(FileNotFoundError):  # another process has set it aside
            path.rename(path.with_suffix(".damaged"))
    return None


def _changed_at(folder: Path) -> float:
    """The time of the folder's last change, in seconds; 0 when another process has deleted it meanwhile."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), reverse=True)


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
