"""A disk that is full or may not be written: one line, and the old file stays as it was, alone."""

import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from specs import CUSTOM_RESNET, GREY

from cifar.nn.saved import Model, save_model
from cifar.results.charts import draw_range_test
from cifar.results.predictions import Predictions, save_predictions
from cifar.results.sheets import draw_sheet
from cifar.system.errors import InputError
from cifar.system.files import write_array, write_csv, write_json, write_text
from cifar.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
CURVE = pd.DataFrame({"lr": [0.01, 0.1, 1.0], "loss": [2.3, 1.0, 2.0], "smoothed_loss": [2.3, 1.5, 1.8]})


@contextmanager
def largest_file(size: int):
    """The system refuses to let a file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "note.txt": lambda path: write_text(path, "x" * 2000),
    "metrics.json": lambda path: write_json(path, {f"key{k}": k for k in range(500)}),
    "table.csv": lambda path: write_csv(path, pd.DataFrame({"value": range(1000)})),
    "images.npy": lambda path: write_array(path, IMAGES),
    "predictions.npz": lambda path: save_predictions(Predictions(np.ones((99, 10)), *np.ones((2, 99))), path),
    "sheet.png": lambda path: draw_sheet(path, IMAGES, columns=2, title="Images"),
    "curve.png": lambda path: draw_range_test(path, CURVE, {"lr_max": 0.1}),
    "model.safetensors": lambda path: save_model(
        Model(torch.nn.Linear(99, 10), GREY, list("abcdefghij")), CUSTOM_RESNET, {}, folder=path.parent
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_be_written_to_its_end_is_not_written_at_all(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")
    with largest_file(500), pytest.raises(InputError) as caught:
        WRITERS[name](path)
    assert str(caught.value) == f"cannot write {path}: File too large; fix this and run the same command again"
    assert os.listdir(tmp_path) == [name] and path.read_bytes() == b"old"
    WRITERS[name](path)  # with room it is
    assert path.stat().st_size > 500


def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    checkpoints = Checkpoints("train-0", {})
    checkpoints.save(1, {"weights": torch.ones(999), "epoch": 1})
    with largest_file(500), pytest.raises(InputError, match="cannot write .*: File too large"):
        checkpoints.save(2, {"weights": torch.ones(999), "epoch": 2})
    assert checkpoints.load()["epoch"] == 1
    assert len(os.listdir(checkpoints.folder)) == 2  # that and the lock


def in_a_file_system_of_its_own(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a shell script that may mount; skip the test where one may not."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    command = ["unshare", "-rm", "sh", "-euc", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


FULL = """
folder=$1 mount=$2 python=$3 stage=$4
mount -t tmpfs -o size=64m none $mount
cp -r $folder/. $mount && cd $mount
cat /dev/zero > filler 2> /dev/null || true
before=$(find . -type f | sort | xargs sha256sum)
status=0; $python -m stages.$stage || status=$?
test "$before" = "$(find . -type f | sort | xargs sha256sum)" && echo "nothing changed, status $status"
"""


@pytest.mark.parametrize("stage", ["download", "evaluate", "gradcam"])
def test_a_stage_on_a_full_disk_says_so_and_changes_nothing(project, tmp_path, stage):
    folder, mount = tmp_path / "copy", tmp_path / "mount"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".git", ".dvc", "cifar", "stages"))
    mount.mkdir()
    ended = in_a_file_system_of_its_own(FULL, folder, mount, sys.executable, stage)
    assert ended.stdout == "nothing changed, status 1\n", ended
    assert ended.stderr.startswith("error: cannot write ") and ended.stderr.count("\n") == 1
    assert "No space left on device" in ended.stderr


READ_ONLY = """
folder=$1 python=$2 stage=$3
mount --bind $folder $folder && mount -o remount,ro,bind $folder && cd $folder
status=0; $python -m stages.$stage || status=$?
echo "status $status"
"""


@pytest.mark.parametrize("stage", ["stats", "train"])
def test_a_stage_in_a_folder_that_may_not_be_written_says_so(project, tmp_path, stage):
    folder = tmp_path / "copy"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".git", ".dvc"))
    ended = in_a_file_system_of_its_own(READ_ONLY, folder, sys.executable, stage)
    assert ended.stdout == "status 1\n"
    assert ended.stderr.startswith("error: ") and ended.stderr.endswith("\n") and ended.stderr.count("\n") == 1
    assert "Read-only file system" in ended.stderr
