"""Checkpoints: the state from which an interrupted training carries on as if nothing had happened."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from cifar.console import InputError
from cifar.files import replacing
from cifar.params import read_yaml

KEEP = 2  # the newest, and the one before it in case the newest is damaged
KEEP_OTHERS = 4  # other configurations, each of some 100 MB, that may still be carried on
WAIT = 10  # seconds that a run whose DVC has died may take to notice


def fingerprint(stage: str, decided_by: dict[str, Any]) -> str:
    """A name for everything that decides the result of `stage`, 16 hexadecimal digits.

    It covers the bytes of all that dvc.yaml declares as the stage's `deps` (code and data) and `decided_by`: the
    params' values and the environment.
    """
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True, default=repr).encode())
    for path in read_yaml("dvc.yaml")["stages"][stage]["deps"]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class Checkpoints:
    """The checkpoints of one configuration, in a folder of its own, which one process at a time may hold.

    The folder lies outside the stage's outputs, which DVC deletes before it runs the stage. Each file's name ends in
    its SHA-256, so a damaged file is known before it is read.
    """

    def __init__(self, name: str):
        # DVC_ROOT is the main workspace even inside `dvc exp run --temp`.
        self.folder = Path(os.environ.get("DVC_ROOT", ".")) / ".checkpoints" / name
        self._lock = _wait_for(self.folder / "lock", WAIT)
        if self._lock is None:
            holder = (self.folder / "lock").read_text().strip() or "unknown"
            raise InputError(f"process {holder} is training this very configuration; wait for it or stop it")
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._prune()

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep `state`, of tensors and plain values, as that after `epoch` epochs."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        with replacing(self.folder / f"{epoch:05d}-{digest}.pt") as part:
            part.write_bytes(buffer.getbuffer())
        for old in self._newest_first()[KEEP:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest whole state, on the CPU, or None; a damaged file is set aside with a warning."""
        for path in self._newest_first():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            print(f"warning: checkpoint {path} is damaged; set aside", file=sys.stderr)
            path.rename(path.with_suffix(".damaged"))
        return None

    def discard(self) -> None:
        """Forget this configuration: its run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prune(self) -> None:
        """Forget the configurations whose training was broken off longest ago; one that is in use stays."""
        others = [folder for folder in self.folder.parent.iterdir() if folder.is_dir() and folder != self.folder]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[KEEP_OTHERS:]:
            if lock := _take(folder / "lock"):
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"), reverse=True)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path, "a+")  # noqa: SIM115 (stays open)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # not deleted meanwhile
            return lock
    except BlockingIOError:
        pass
    lock.close()
    return None
