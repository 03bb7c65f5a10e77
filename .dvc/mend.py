"""Repair what DVC itself cannot: files that a kill left half written, and cache entries whose bytes have changed.

- dvc.lock, cut off: the staged version is put back, else the committed one. It is removed only where Git says that the
  last commit has no such file; what it then forgets, DVC's run cache still knows.
- .dvc/tmp/rwlock, cut off: removed, since it only says who reads and writes at the moment.
- An entry of DVC's cache that dvc.lock names, with another hash than its name: removed. DVC takes every entry for whole
  and would put the damaged bytes back in place for ever.

Whatever is whole stays as it is. `make mend` runs this, and `make repro` and `make demo` begin with it.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import SCHEMA
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from voluptuous import Invalid

TMP = Path(".dvc/tmp")
LOCK = "dvc.lock"
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


def main() -> None:
    try:
        TMP.mkdir(exist_ok=True)
        with make_lock(str(TMP / "lock")):  # no dvc is writing dvc.lock now
            mend_lock(Path(LOCK))
            mend_cache(Path(LOCK))
        with make_lock(str(TMP / "rwlock.lock")):
            mend_rwlock(TMP / "rwlock")
    except (LockError, DvcException) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except OSError as error:
        sys.exit(
            f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror or error}"
        )
    except KeyboardInterrupt:
        sys.exit(130)


def mend_lock(path: Path) -> None:
    if not path.exists() or is_lock(content := path.read_bytes()):
        return
    if is_without_git() or not restore(path, content):
        path.unlink()
        print(f"repaired: removed a half-written {path}")


def restore(path: Path, content: bytes) -> bool:
    """Put the version back that Git has; False if Git says that there is none. Ends in one line if Git cannot tell."""
    if git("ls-files", "--unmerged", "--", str(path)).stdout:
        sys.exit(
            f"error: {path} is in a merge conflict; take one side (`git checkout --ours {path}` or --theirs), "
            f"`git add {path}`, and give the same command again"
        )
    if b"\n<<<<<<< " in b"\n" + content:
        sys.exit(
            f"error: {path} holds both sides of a merge; take one: `git log -- {path}` lists commits, "
            f"`git checkout COMMIT -- {path}` takes that of a commit"
        )
    for version, name in (f":./{path}", "staged"), (f"HEAD:./{path}", "committed"):
        ended = git("show", version)
        if ended.returncode == 0 and is_lock(ended.stdout):
            replace(path, ended.stdout)
            print(f"repaired: restored the {name} {path}")
            return True
    committed = git("ls-tree", "HEAD", "--", str(path))
    if committed.returncode or committed.stdout:
        said = " ".join(committed.stderr.decode(errors="replace").split()) or "the committed one is cut off too"
        sys.exit(f"error: {path} is cut off, and Git has no complete version ({said}); fix this, or delete {path}")
    return False


def is_lock(content: bytes) -> bool:
    """Is it a dvc.lock that DVC can read? DVC's own schema also accepts one that ends before or within the stages."""
    try:
        lock = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(content.decode("utf-8")))
        files = [file for stage in lock["stages"].values() for file in (*stage.get("deps", ()), *stage.get("outs", ()))]
        return all(file["path"] and MD5.fullmatch(file["md5"]) for file in files if file.get("hash") == "md5")
    except MemoryError:
        raise
    except Exception:  # for a value that does not fit its tag or form ruamel.yaml raises whatever its parsers do
        return False


def git(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *words], capture_output=True, env=os.environ | {"LC_ALL": "C"})


def is_without_git() -> bool:
    """Is this a DVC repository that is set up to use no Git, like the demo's?"""
    return Config(dvc_dir=".dvc")["core"]["no_scm"]


def replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def mend_rwlock(path: Path) -> None:
    try:
        if path.exists():
            SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, Invalid):
        path.unlink()
        print(f"repaired: removed a half-written {path}")


def mend_cache(lock: Path) -> None:
    """Remove the damaged entries of DVC's cache that `lock` names, and let DVC look at their copies again."""
    cache = Path(Repo().cache.local.path)
    for path, oid in outputs(lock, cache):
        entry = cache / oid[:2] / oid[2:]
        if entry.exists() and md5(entry) != oid.removesuffix(".dir"):
            entry.unlink()
            print(f"repaired: removed {entry} from DVC's cache: its bytes had changed ({path})")
        if path.is_file() and md5(path) != oid:
            os.utime(path)  # DVC hashes a file anew only when its time or size has changed


def outputs(lock: Path, cache: Path) -> Iterator[tuple[Path, str]]:
    """Each output in `lock`, and each file of one that is a folder, with its name in the cache: its md5."""
    stages = YAML(typ="safe").load(lock)["stages"] if lock.exists() else {}
    outs = [out for stage in stages.values() for out in stage.get("outs", ()) if out.get("hash") == "md5"]
    for out in outs:
        listing = cache / out["md5"][:2] / out["md5"][2:]
        if out["md5"].endswith(".dir") and listing.exists() and md5(listing) == out["md5"].removesuffix(".dir"):
            for file in json.loads(listing.read_text(encoding="utf-8")):
                yield Path(out["path"], file["relpath"]), file["md5"]
        yield Path(out["path"]), out["md5"]


def md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


if __name__ == "__main__":
    main()
