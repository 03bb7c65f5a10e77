"""Clones of this repository in which experiments run, so that the workspace does not change."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from cifar.results.revisions import git
from cifar.system.files import write_text
from recipes.dvc_commands import output_of_dvc

CLONES = Path(".dvc/tmp/compare")
READY = ".dvc/tmp/ready"  # in a clone that is complete


@contextmanager
def held(clone: Path) -> Iterator[int]:
    """Lock a clone, after waiting for whoever runs something there; yields the lock's file descriptor.

    The DVC that is started there inherits it, because it may outlive us.
    """
    clone.parent.mkdir(parents=True, exist_ok=True)
    with open(clone.with_suffix(".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for a run of an earlier comparison in {clone}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def delete_unless_needed(clone: Path) -> None:
    """Delete a clone, unless another comparison runs something there or has stopped a training there."""
    with suppress(FileNotFoundError, BlockingIOError), open(clone.with_suffix(".lock")) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not any(clone.glob(".checkpoints/*/*.pt")):
            # The mark goes first, so that a clone which a kill leaves half-deleted is not used.
            (clone / READY).unlink(missing_ok=True)
            shutil.rmtree(clone, ignore_errors=True)


def prepare(clone: Path, commit: str) -> None:
    """Make the clone, or continue after an interruption: checkpoints are kept, half-written files are restored."""
    ready = clone / READY
    if not (ready.exists() and is_repository(clone)):  # else git would work on the project around the clone
        shutil.rmtree(clone, ignore_errors=True)
        git("clone", "--quiet", "--shared", "--no-checkout", ".", str(clone))
        git("-C", str(clone), "checkout", "--quiet", "--detach", commit)
        if Path(".dvc/config.local").exists():
            shutil.copy(".dvc/config.local", clone / ".dvc/config.local")
        output_of_dvc("config", "--local", "cache.dir", str(cache_folder()), folder=clone)
        write_text(ready, "")
    # Locks that are left are those of killed processes, because we hold the clone.
    for lock in (*(clone / ".git").rglob("*.lock"), clone / ".dvc/tmp/rwlock"):
        lock.unlink(missing_ok=True)
    git("-C", str(clone), "checkout", "--quiet", "--force", "--detach", commit)


def is_repository(folder: Path) -> bool:
    """Whether git works on the repository in `folder` there, not on one around it."""
    found = git("-C", str(folder), "rev-parse", "--absolute-git-dir", check=False).strip()
    return found == str((folder / ".git").resolve())


def environment() -> dict[str, str]:
    """Ours, with this Python first in PATH, and with the images of CIFAR10_DIR or else of this project's data/raw."""
    images = os.environ.get("CIFAR10_DIR") or "data/raw"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"CIFAR10_DIR": str(Path(images).absolute()), "PATH": path}


@cache
def cache_folder() -> Path:
    return Path(output_of_dvc("cache", "dir").strip()).absolute()
