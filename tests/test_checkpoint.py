"""Checkpoints: kept whole, told apart, held by one process at a time."""

import hashlib
import io
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import Evil
from specs import AIRNET, GREY, trainer_spec

from cifar.config.fingerprint import fingerprint
from cifar.system.errors import InputError
from cifar.training.checkpoint import Checkpoints, carries_on
from cifar.training.loop import resume
from cifar.training.trainer import build_trainer


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {train: {deps: [code.py]}}")
    (tmp_path / "code.py").write_text("1")
    return tmp_path


def state_of(epoch: int) -> dict:
    return {"network": {"weight": torch.full((3,), float(epoch))}, "history": [{"epoch": epoch, "train_loss": 0.5}]}


def test_the_newest_state_comes_back():
    checkpoints = Checkpoints("a", {})
    for epoch in (9, 10):
        checkpoints.save(epoch, state_of(epoch))
    found = checkpoints.load()
    assert found["history"] == [{"epoch": 10, "train_loss": 0.5}]
    assert torch.equal(found["network"]["weight"], torch.full((3,), 10.0))


def test_two_are_kept(root):
    checkpoints = Checkpoints("a", {})
    for epoch in range(1, 6):
        checkpoints.save(epoch, state_of(epoch))
    assert [path.name[:5] for path in sorted(checkpoints.folder.glob("*.pt"))] == ["00004", "00005"]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_one_is_set_aside_for_the_one_before(root, damage, capsys):
    checkpoints = Checkpoints("a", {})
    for epoch in (1, 2):
        checkpoints.save(epoch, state_of(epoch))
    newest = max(checkpoints.folder.glob("*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content[:-100] if damage == "truncated" else content)
    assert checkpoints.load()["history"][0]["epoch"] == 1
    assert "damaged" in capsys.readouterr().err
    assert newest.with_suffix(".damaged").exists()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


WHOLE = {"epoch": 2, "trained_on": [{"epochs": [1, 2], "environment": {}}], "state": {}}
FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "pickle": pickle.dumps(Evil()),
    "planted": saved(Evil()),
    "numbers": saved([1, 2]),
    "nothing": saved({}),
    "no state": saved({"epoch": 2, "trained_on": WHOLE["trained_on"]}),
    "state of another type": saved(WHOLE | {"state": [1]}),
    "epoch of another type": saved(WHOLE | {"epoch": "2"}),
    "environments of another form": saved(WHOLE | {"trained_on": [{"epochs": 2}]}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_other_content_with_the_right_hash_is_set_aside_and_never_executed(root, content, capsys, tmp_path):
    checkpoints = Checkpoints("a", {})
    checkpoints.save(1, state_of(1))
    path = checkpoints.folder / f"00002-{hashlib.sha256(content).hexdigest()}.pt"
    path.write_bytes(content)
    assert checkpoints.load()["history"][0]["epoch"] == 1
    assert f"warning: checkpoint {path} is damaged and will not be used" in capsys.readouterr().err
    assert path.with_suffix(".damaged").exists() and not Path("executed").exists()


def test_a_state_that_does_not_fit_is_set_aside_with_a_line(root):
    for state in {}, {"network": {}, "history": []}, state_of(1):
        checkpoints = Checkpoints("a", {})
        checkpoints.save(1, state)
        trainer = build_trainer(trainer_spec(model=AIRNET), GREY, np.zeros((8, 32, 32, 3), np.uint8))
        with pytest.raises(
            InputError, match=r"\.pt does not fit this training and will not be used; run `dvc repro` again"
        ):
            resume(checkpoints, trainer, None)
        assert checkpoints.load() is None
        checkpoints.discard()
        checkpoints._lock.close()


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), MemoryError()])
@pytest.mark.parametrize("step", ["torch.load", "torch.nn.Module.load_state_dict"])
def test_memory_that_runs_out_sets_no_checkpoint_aside(root, monkeypatch, step, error):
    trainer = build_trainer(trainer_spec(model=AIRNET), GREY, np.zeros((8, 32, 32, 3), np.uint8))
    checkpoints = Checkpoints("a", {})
    checkpoints.save(1, trainer.state() | {"history": [], "best": None, "seconds": 0.0})

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(step, fail)
    with pytest.raises(type(error)):
        resume(checkpoints, trainer, None)
    assert [path.suffix for path in checkpoints.folder.iterdir() if path.name != "lock"] == [".pt"]


def test_a_folder_that_another_process_deletes_while_old_ones_are_pruned_is_no_hindrance(root, monkeypatch):
    for number in range(7):
        (root / f".checkpoints/train-{number}").mkdir(parents=True)
        (root / f".checkpoints/train-{number}/00001-ab.pt").touch()
    is_dir, deleted = Path.is_dir, ["train-0", "train-6"]

    def is_dir_until_now(path: Path) -> bool:
        answer = is_dir(path)
        if path.name in deleted:
            deleted.remove(path.name)
            shutil.rmtree(path)
        return answer

    monkeypatch.setattr(Path, "is_dir", is_dir_until_now)
    checkpoints = Checkpoints("a", {})
    checkpoints.save(1, state_of(1))
    assert checkpoints.load()["history"] == state_of(1)["history"]
    assert len(list((root / ".checkpoints").glob("train-*"))) == 4 and not deleted


def test_a_lock_whose_folder_is_deleted_at_that_moment_is_tried_again(root, monkeypatch):
    """Another process prunes the folder between its making and the opening of the lock in it."""
    folders, mkdir = [], Path.mkdir

    def mkdir_and_lose(path: Path, *arguments, **options) -> None:
        mkdir(path, *arguments, **options)
        if path.name.startswith("a-") and not folders:
            folders.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir_and_lose)
    checkpoints = Checkpoints("a", {})
    assert folders == [checkpoints.folder] and (checkpoints.folder / "lock").read_text() == str(os.getpid())


def test_nothing_to_load_at_first_and_after_success(root):
    checkpoints = Checkpoints("a", {})
    assert checkpoints.load() is None
    checkpoints.save(1, state_of(1))
    checkpoints.discard()
    assert not list((root / ".checkpoints").iterdir())


def test_they_lie_in_the_main_workspace_during_a_temp_run(root, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(tmp_path_factory.mktemp("temp"))
    Checkpoints("a", {}).save(1, state_of(1))
    assert len(list(root.glob(".checkpoints/a-*/*.pt"))) == 1


def test_fingerprint_follows_code_and_params(root):
    first = fingerprint("train", {"lr_max": 0.4})
    assert first == fingerprint("train", {"lr_max": 0.4})
    assert first != fingerprint("train", {"lr_max": 0.3})
    (root / "code.py").write_text("2")
    assert first != fingerprint("train", {"lr_max": 0.4})


def hold(name, holding, done):
    _ = Checkpoints(name, {})
    holding.set()
    done.wait(20)


def test_configurations_broken_off_long_ago_are_forgotten(root):
    for age, name in enumerate("gfedcb"):
        checkpoints = Checkpoints(name, {})
        checkpoints.save(1, state_of(1))
        os.utime(checkpoints.folder, (1e9 + age, 1e9 + age))
        del checkpoints  # and with it the lock
    held = Checkpoints("g", {})  # in use, so it stays
    held.save(2, state_of(2))
    os.utime(held.folder, (1, 1))
    Checkpoints("a", {})
    assert sorted(path.name[0] for path in (root / ".checkpoints").iterdir()) == ["a", "b", "c", "d", "e", "g"]
    assert held.load() is not None


def test_trainings_in_use_do_not_count_among_those_that_are_kept(root):
    held = []
    for age, name in enumerate("edcb"):
        checkpoints = Checkpoints(name, {})
        checkpoints.save(1, state_of(1))
        os.utime(checkpoints.folder, (1e9 + age, 1e9 + age))
        held += [checkpoints] if name < "e" else []  # the newest three are in use, the oldest is stopped
        del checkpoints
    held += [Checkpoints("f", {})]
    Checkpoints("a", {})
    assert sorted(path.name[0] for path in (root / ".checkpoints").iterdir()) == ["a", "b", "c", "d", "e", "f"]


def test_trainings_that_ended_before_their_first_checkpoint_push_none_out(root):
    kept = Checkpoints("kept", {})
    kept.save(1, state_of(1))
    (kept.folder / ".00002-ab.pt.1.part").write_text("half written by a process that was killed")
    del kept
    for name in "bcdef":
        Checkpoints(name, {})
    assert sorted(path.name.partition("-")[0] for path in (root / ".checkpoints").iterdir()) == ["f", "kept"]
    assert Checkpoints("kept", {}).load()["history"][0]["epoch"] == 1
    assert [path.suffix for path in sorted((root / ".checkpoints").glob("kept-*/*"))] == [".pt", ""]


def test_a_run_waits_for_one_that_is_about_to_end():
    context = multiprocessing.get_context("fork")
    holding, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=("a", holding, done))
    holder.start()
    assert holding.wait(20)
    threading.Timer(1, done.set).start()
    assert Checkpoints("a", {}).load() is None
    holder.join()


def test_a_second_run_is_told_who_holds_them(monkeypatch):
    monkeypatch.setattr("cifar.training.checkpoint.WAIT", 0.5)
    context = multiprocessing.get_context("fork")
    holding, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=("a", holding, done))
    holder.start()
    try:
        assert holding.wait(20)
        with pytest.raises(InputError, match=f"process {holder.pid} is already running this training"):
            Checkpoints("a", {})
        Checkpoints("b", {})  # another configuration is free
    finally:
        done.set()
        holder.join()
    assert Checkpoints("a", {}).load() is None  # free again once it ended


HERE, THERE = {"threads": 2, "instructions": ["avx2"]}, {"threads": 4, "instructions": ["amx_bf16", "avx2"]}


def test_another_environments_epochs_are_named_and_not_taken(root, capsys):
    Checkpoints("train-1", THERE).save(7, state_of(7))
    here = Checkpoints("train-1", HERE)
    assert here.load() is None
    differences = "instructions amx_bf16, here none more; threads 4, here 2"
    line = f"this training has reached epoch 7 in another environment ({differences})"
    assert capsys.readouterr().err == f"{line}; set CARRY_ON=1 to continue from there\n"
    here.save(8, state_of(8))  # once this machine is ahead, the other's epochs are of no use
    assert here.load()["history"][0]["epoch"] == 8
    assert capsys.readouterr().err == ""


def test_with_carry_on_they_are_taken_and_told_which_ran_where(root, capsys):
    Checkpoints("train-2", THERE).save(9, state_of(9))  # another training
    there = Checkpoints("train-1", THERE)
    for epoch in (1, 2):
        there.save(epoch, state_of(epoch))
    del there
    here = Checkpoints("train-1", HERE, carry_on=True)
    assert here.load()["history"][0]["epoch"] == 2
    for epoch in (3, 4):
        here.save(epoch, state_of(epoch))
    del here
    assert capsys.readouterr().err.endswith("; continuing from there\n")
    back = Checkpoints("train-1", HERE)  # interrupted again, here
    assert back.load()["history"][0]["epoch"] == 4
    differences = "instructions amx_bf16, here none more; threads 4, here 2"
    line = f"epochs 1 to 2 of this training ran in another environment ({differences})\n"
    assert capsys.readouterr().err == line
    assert back.trained_on == [{"epochs": [1, 2], "environment": THERE}, {"epochs": [3, 4], "environment": HERE}]
    there = Checkpoints("train-1", THERE)  # runs again, beside this one
    back.discard()
    assert sorted(path.name[:7] for path in (root / ".checkpoints").iterdir()) == ["train-1", "train-2"]
    del there
    back.discard()
    assert [path.name[:7] for path in (root / ".checkpoints").iterdir()] == ["train-2"]


@pytest.mark.parametrize(("value", "carries"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_carry_on_is_asked_for_by_a_variable(monkeypatch, value, carries):
    monkeypatch.delenv("CARRY_ON", raising=False)
    if value is not None:
        monkeypatch.setenv("CARRY_ON", value)
    assert carries_on() is carries


def test_another_value_of_carry_on_is_refused(monkeypatch):
    monkeypatch.setenv("CARRY_ON", "yes")
    with pytest.raises(InputError, match="CARRY_ON is 'yes'; set it to 1 to continue another machine's training"):
        carries_on()
