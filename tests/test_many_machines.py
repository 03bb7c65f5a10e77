"""Experiments travel between machines through a Git repository and a DVC remote, as docs/scaling.md says."""

import io
import os
import shutil

import pandas as pd
import pytest
from projects import Project


@pytest.mark.slow
def test_a_workers_experiment_arrives_at_the_head_with_its_results(project, tmp_path):
    """A short experiment: all that `gallery_size` changes are the sheets, which Git leaves to the DVC remote."""
    head = machine(project.clone(tmp_path / "head"))
    shutil.copytree(project.folder / ".dvc/cache", tmp_path / "store")  # as `dvc push` would fill it
    head.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    head.git("commit", "--quiet", "--all", "--message=remote")
    head.git("clone", "--quiet", "--bare", ".", str(tmp_path / "hub.git"))
    head.git("remote", "set-url", "origin", str(tmp_path / "hub.git"))

    head.git("clone", "--quiet", str(tmp_path / "hub.git"), str(tmp_path / "worker"))
    worker = machine(Project(tmp_path / "worker", head.environment))
    worker.dvc("pull")
    ran = worker.dvc("exp", "run", "--name", "other", "-S", "gallery_size=3")
    assert "Ran experiment(s): other" in ran
    worker.dvc("exp", "push", "origin", "other")

    head.dvc("exp", "pull", "origin", "other")
    table = pd.read_csv(io.StringIO(head.dvc("exp", "show", "--csv")))
    (row,) = [row for _, row in table.iterrows() if row["Experiment"] == "other"]
    assert row["gallery_size"] == 3
    head.dvc("exp", "apply", "other")
    sheet = "plots/misclassified/gallery.png"
    for name in sheet, "models/model.safetensors", "metrics/evaluate.json":
        assert (head.folder / name).read_bytes() == (worker.folder / name).read_bytes()
    assert (head.folder / sheet).read_bytes() != (project.folder / sheet).read_bytes()


def machine(project: Project) -> Project:
    """The project with settings of its own for DVC, and without the log of what its stages read."""
    own = {f"DVC_{name}": f"{project.folder}-{name}" for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR")}
    return Project(project.folder, project.environment | own | {"READS_LOG": os.devnull})
