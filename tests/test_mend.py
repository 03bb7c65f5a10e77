"""Half-written files of DVC and damaged cache entries are repaired, and nothing else is touched."""

import errno
import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from dvc import cli
from dvc.lock import make_lock

ROOT = Path(__file__).parents[1]
MEND = runpy.run_path(str(ROOT / ".dvc/mend.py"))
LOCK, RWLOCK = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
PUT_BACK, REMOVED = f"repaired: restored the staged {LOCK}\n", f"repaired: removed a half-written {RWLOCK}\n"


@pytest.fixture
def committed(tmp_path, monkeypatch) -> bytes:
    """The bytes of a dvc.lock that is committed to a repository in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / LOCK, LOCK)
    RWLOCK.parent.mkdir(parents=True)
    for words in ["init", "--quiet", "--initial-branch=main"], ["add", "-A"], ["commit", "--quiet", "--message=start"]:
        git(*words)
    return LOCK.read_bytes()


def git(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *words], capture_output=True, check=check)


def dvc(*words: str) -> None:
    assert cli.main(list(words)) == 0


def mend() -> tuple[int, str]:
    """The exit status, and what was said."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            MEND["main"]()
    except SystemExit as stop:
        return 1, printed.getvalue() + f"{stop.code}\n"
    return 0, printed.getvalue()


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


@pytest.mark.parametrize("keep", [0, 5, 14, 15, 22, 40, 140, 170])  # 14: the first line, 140: within a hash
def test_a_dvc_lock_that_dvc_cannot_read_gives_way_to_the_one_in_git(committed, keep):
    LOCK.write_bytes(committed[:keep])
    assert mend() == (0, PUT_BACK)
    assert LOCK.read_bytes() == committed
    assert mend() == (0, "")


@pytest.mark.slow
def test_any_damage_to_a_dvc_lock_is_mended_or_no_damage_to_dvc(committed):
    """Flipped bits, parts that are missing, twice there or zero: never a traceback, and afterwards DVC can read it."""
    for number, content in enumerate(damaged(np.random.default_rng(0), [committed[:3000]], 60)):
        LOCK.write_bytes(content)
        is_read = MEND["is_lock"](content)
        MEND["mend_lock"](LOCK)
        assert LOCK.read_bytes() == (content if is_read else committed), number
        assert all(len(oid.removesuffix(".dir")) == 32 for _, oid in MEND["outputs"](LOCK, Path("no cache"))), number


def test_a_dvc_lock_that_is_no_longer_staged_gives_way_to_the_committed_one(committed):
    git("rm", "--quiet", "--cached", LOCK)
    LOCK.write_bytes(committed[:40])
    assert mend() == (0, f"repaired: restored the committed {LOCK}\n")
    assert LOCK.read_bytes() == committed


def test_a_newer_staged_dvc_lock_comes_before_the_committed_one(committed):
    staged = committed.replace(b"size: ", b"size: 1", 1)
    LOCK.write_bytes(staged)
    git("add", LOCK)
    LOCK.write_bytes(staged[:40])
    assert mend() == (0, f"repaired: restored the staged {LOCK}\n")
    assert LOCK.read_bytes() == staged


def test_a_dvc_lock_that_the_last_commit_does_not_have_is_removed(committed):
    git("rm", "--quiet", "--cached", LOCK)
    git("commit", "--quiet", "--message=no lock")
    LOCK.write_bytes(committed[:40])
    assert mend() == (0, f"repaired: removed a half-written {LOCK}\n")
    assert not LOCK.exists()


def test_without_git_by_dvcs_own_setting_a_cut_off_dvc_lock_is_removed(committed, monkeypatch):
    shutil.rmtree(".git")
    monkeypatch.setenv("PATH", "/nowhere")  # Git may not even be installed
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    LOCK.write_bytes(committed[:40])
    assert mend() == (0, f"repaired: removed a half-written {LOCK}\n")
    assert not LOCK.exists()


def break_git_off(monkeypatch):
    shutil.rmtree(".git")


def give_the_repository_to_another_user(monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def commit_it_cut_off(monkeypatch):
    git("commit", "--quiet", "--all", "--message=cut off")


@pytest.mark.parametrize(("trouble", "words"), [
    (break_git_off, "fatal: not a git repository"),
    (give_the_repository_to_another_user, "fatal: detected dubious ownership"),
    (commit_it_cut_off, "the committed one is cut off too"),
])  # fmt: skip
def test_while_git_has_no_answer_a_dvc_lock_is_never_deleted(committed, monkeypatch, trouble, words):
    LOCK.write_bytes(committed[:40])
    trouble(monkeypatch)
    status, said = mend()
    assert status == 1 and said.count("\n") == 1 and words in said, said
    assert said.startswith(f"error: {LOCK} is cut off, and Git has no complete version (")
    assert LOCK.read_bytes() == committed[:40]


def test_a_lock_of_gits_index_is_no_hindrance(committed):
    LOCK.write_bytes(committed[:40])
    Path(".git/index.lock").touch()  # as a killed git leaves it
    assert mend() == (0, f"repaired: restored the staged {LOCK}\n")
    assert LOCK.read_bytes() == committed


def test_a_merge_conflict_is_left_to_the_person_who_merges(committed):
    git("checkout", "--quiet", "-b", "side")
    for branch, size in ("side", b"size: 1"), ("main", b"size: 2"):
        git("checkout", "--quiet", branch)
        LOCK.write_bytes(committed.replace(b"size: ", size, 1))
        git("commit", "--quiet", "--all", "--message=changed")
    assert git("merge", "side", check=False).returncode == 1
    both = LOCK.read_bytes()
    status, said = mend()
    assert status == 1 and said.startswith(f"error: {LOCK} is in a merge conflict; take one side") and "\n" in said
    assert said.count("\n") == 1 and LOCK.read_bytes() == both
    git("add", LOCK)  # with both sides in it, after which Git knows no sides
    status, said = mend()
    assert status == 1 and said.startswith(f"error: {LOCK} holds both sides of a merge; take one: `git log -- {LOCK}`")
    assert said.count("\n") == 1 and LOCK.read_bytes() == both
    git("commit", "--quiet", "--message=merged")
    assert mend() == (1, said) and LOCK.read_bytes() == both
    git("checkout", "HEAD^1", "--", LOCK)  # as it says
    assert mend() == (0, "") and b"size: 2" in LOCK.read_bytes()


PIPELINE = """\
stages:
  make:
    cmd: mkdir folder && printf one > file.txt && printf two > folder/two.txt && echo ran >> runs.log
    outs: [file.txt, folder]
"""


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("name", ["file.txt", "folder/two.txt"])
def test_a_flipped_bit_in_dvcs_cache_is_found_removed_and_made_again(tmp_path, monkeypatch, link, name):
    monkeypatch.chdir(tmp_path)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text(f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    type = {link}\n")
    Path("dvc.yaml").write_text(PIPELINE)
    content, runs = {"file.txt": b"one", "folder/two.txt": b"two"}, Path("runs.log")
    dvc("repro")
    assert mend() == (0, "")
    digest = hashlib.md5(content[name]).hexdigest()
    entry = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    before = entry.stat()
    entry.chmod(0o644)
    entry.write_bytes(b"0" + content[name][1:])  # on the disk: its time, size and mode do not tell
    entry.chmod(before.st_mode)
    os.utime(entry, ns=(before.st_atime_ns, before.st_mtime_ns))
    Path(name).unlink()
    dvc("checkout", "--relink")
    assert Path(name).read_bytes() != content[name]
    dvc("repro")
    assert Path(name).read_bytes() != content[name] and runs.read_text() == "ran\n"  # DVC does not notice

    status, said = mend()
    assert status == 0 and said.count("\n") == 1 and f"{digest[:2]}/{digest[2:]} from DVC's cache" in said, said
    dvc("repro")
    assert Path(name).read_bytes() == content[name] and runs.read_text() == "ran\n" * 2
    assert mend() == (0, "")


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


def test_a_failure_of_the_disk_is_one_line_and_leaves_nothing(committed, monkeypatch):
    def fail(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    LOCK.write_bytes(committed[:40])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert mend() == (1, "error: No space left on device\n")
    assert LOCK.read_bytes() == committed[:40] and not list(Path().glob(".dvc.lock*"))
    shutil.rmtree(".dvc")
    Path(".dvc").touch()
    assert mend() == (1, "error: .dvc/tmp: Not a directory\n")


def test_ctrl_c_while_it_looks_at_the_cache_says_nothing_of_its_own(committed, monkeypatch):
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(MEND["main"].__globals__, "mend_cache", stop)
    with pytest.raises(SystemExit) as caught:
        MEND["main"]()
    assert caught.value.code == 130


def test_ctrl_c_during_repairs_ends_make_repro_in_one_line(monkeypatch, capsys):
    def stop(*command: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", stop)
    monkeypatch.delenv("CIFAR_AGAIN", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / ".dvc/repro.py"), run_name="__main__")
    assert (caught.value.code, capsys.readouterr().err) == (130, "interrupted; run `make repro` to continue\n")
