"""What a kill of DVC itself leaves half written is put right, and nothing else is touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.lock import make_lock

ROOT = Path(__file__).parents[1]
LOCK, RWLOCK = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
PUT_BACK, REMOVED = f"mended: put back the committed {LOCK}\n", f"mended: removed a half-written {RWLOCK}\n"


@pytest.fixture
def committed(tmp_path, monkeypatch) -> bytes:
    """The bytes of a dvc.lock that is committed to a repository in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / LOCK, LOCK)
    RWLOCK.parent.mkdir(parents=True)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return LOCK.read_bytes()


def mend() -> tuple[int, str]:
    """The exit status, and what was said."""
    ended = subprocess.run([sys.executable, ROOT / ".dvc/mend.py"], capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr


def test_what_is_whole_stays(committed):
    changed = committed.replace(b"size: ", b"size: 1", 1)  # as after `dvc repro`
    assert changed != committed
    LOCK.write_bytes(changed)
    RWLOCK.write_text(json.dumps({"write": {"/a": {"pid": 1, "cmd": "dvc"}}, "read": {}}))
    assert mend() == (0, "")
    assert LOCK.read_bytes() == changed and RWLOCK.exists()


def test_what_is_not_there_stays_away(committed):
    LOCK.unlink()
    assert mend() == (0, "")
    assert not LOCK.exists() and not RWLOCK.exists()


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_dvc_lock_that_dvc_cannot_read_gives_way_to_the_committed_one(committed, keep):
    LOCK.write_bytes(committed[:keep])
    assert mend() == (0, PUT_BACK)
    assert LOCK.read_bytes() == committed
    assert mend() == (0, "")


def test_a_dvc_lock_that_no_commit_has_is_removed(committed):
    shutil.rmtree(".git")
    LOCK.write_bytes(committed[:40])
    assert mend() == (0, f"mended: removed a half-written {LOCK}\n")
    assert not LOCK.exists()


@pytest.mark.parametrize("content", ["", '{"write": {"/a', '{"write": [1]}'])
def test_locks_of_paths_that_are_cut_off_are_removed(committed, content):
    RWLOCK.write_text(content)
    assert mend() == (0, REMOVED)
    assert not RWLOCK.exists() and LOCK.read_bytes() == committed


def test_nothing_is_touched_while_dvc_holds_its_lock(committed):
    LOCK.write_bytes(committed[:40])
    with make_lock(".dvc/tmp/lock"):
        status, said = mend()
    assert status == 1 and said.startswith("error: Unable to acquire lock") and said.count("\n") == 1
    assert LOCK.read_bytes() == committed[:40]
