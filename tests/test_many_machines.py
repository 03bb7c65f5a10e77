"""Experiments travel between machines through a Git repository and a DVC remote, as docs/scaling.md says."""

import io

import pandas as pd
from projects import Project, create


def test_a_workers_experiment_arrives_at_the_head_with_its_results(tmp_path):
    head = create(tmp_path)
    head.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    head.git("commit", "--quiet", "--all", "--message=remote")
    head.dvc("repro", "stats")
    head.dvc("push")
    head.git("add", "--all")
    head.git("commit", "--quiet", "--message=data")
    head.git("clone", "--quiet", "--bare", ".", str(tmp_path / "hub.git"))
    head.git("remote", "add", "origin", str(tmp_path / "hub.git"))

    worker = tmp_path / "worker"
    head.git("clone", "--quiet", str(tmp_path / "hub.git"), str(worker))
    site = {f"DVC_{name}": str(tmp_path / f"worker-{name}") for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR")}
    worker = Project(worker, head.environment | site)
    worker.dvc("pull", "data/dataset", "stats")
    ran = worker.dvc("exp", "run", "--name", "other", "-S", "seed=1")
    assert "Ran experiment(s): other" in ran
    worker.dvc("exp", "push", "origin", "other")

    head.dvc("exp", "pull", "origin", "other")
    table = pd.read_csv(io.StringIO(head.dvc("exp", "show", "--csv")))
    (row,) = [row for _, row in table.iterrows() if row["Experiment"] == "other"]
    assert row["seed"] == 1
    head.dvc("exp", "apply", "other")
    for name in "models/model.safetensors", "metrics/evaluate.json":
        assert (head.folder / name).read_bytes() == (worker.folder / name).read_bytes()
