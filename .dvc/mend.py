"""Put right what a kill of DVC itself has left half written: dvc.lock and .dvc/tmp/rwlock, which it writes in place.

dvc.lock becomes the committed one; what it then forgets, DVC's run cache still knows. A file that is whole stays as it
is, whatever else is wrong. Run by `make mend`, with which `make repro` begins.
"""

import json
import subprocess
import sys
from pathlib import Path

from dvc.lock import LockError, make_lock
from dvc.rwlock import SCHEMA
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML, YAMLError
from voluptuous import Invalid

TMP = Path(".dvc/tmp")


def main() -> None:
    TMP.mkdir(exist_ok=True)
    try:
        with make_lock(str(TMP / "lock")):  # no dvc is writing dvc.lock now
            mend_lock(Path("dvc.lock"))
        with make_lock(str(TMP / "rwlock.lock")):
            mend_rwlock(TMP / "rwlock")
    except LockError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def mend_lock(path: Path) -> None:
    try:
        if path.exists():
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(path))
    except (YAMLError, Invalid, UnicodeDecodeError):
        if subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", path], stderr=subprocess.DEVNULL).returncode:
            path.unlink()
            print(f"mended: removed a half-written {path}")
        else:
            print(f"mended: put back the committed {path}")


def mend_rwlock(path: Path) -> None:
    try:
        if path.exists():
            SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, Invalid):
        path.unlink()
        print(f"mended: removed a half-written {path}")


if __name__ == "__main__":
    main()
