"""`python -m recipes`: what each command does, and that it loses nothing of a user's."""

import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from projects import create

from cifar.system.errors import InputError
from recipes.__main__ import parse
from recipes.dvc_commands import end_stages_of, git_identity
from recipes.values import values_with

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A repository with params.yaml and the recipes, committed; the current folder."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "cifar", tmp_path / "cifar", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    identity = ["config", "user.name", "a"], ["config", "user.email", "b"]
    for words in (["init", "-q"], *identity, ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


Recipes = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def recipes(project, monkeypatch, capfd) -> Recipes:
    """`python -m recipes` with the words given, inside this process, which has imported what it needs."""

    def call(*words: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["recipes", *words])
        monkeypatch.delitem(sys.modules, "recipes.__main__", raising=False)  # runpy warns of a module that is there
        status = 0
        try:
            runpy.run_module("recipes", run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return call


def test_list_names_every_recipe_with_a_line(project):
    listed = subprocess.run([sys.executable, "-m", "recipes", "list"], capture_output=True, text=True)
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in ROOT.glob("recipes/*.yaml"))
    assert "89.22 %" in [line for line in lines if line.startswith("eva4-s8 ")][0]


def test_diff_shows_values_that_only_yaml_has(recipes):
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 2026-11-22"))
    assert 'epochs: "2026-11-22" -> 20' in recipes("diff", "eva4-s8").stdout.splitlines()


def test_diff_names_what_would_change_and_changes_nothing(recipes):
    first, *printed = recipes("diff", "eva4-s8").stdout.splitlines()
    assert first == "changes to params.yaml:"
    assert "epochs: 24 -> 20" in printed and "l1: 0.0 -> 1e-05" in printed
    assert "model.logit_scale: 0.125 -> absent" in printed and "model.strides: absent -> [1, 2, 2, 2]" in printed
    assert not any(line.startswith(("seed", "precision")) for line in printed)
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_apply_writes_the_recipe_with_its_comments_and_prints_the_differences(recipes):
    expected = recipes("diff", "eva6-s8").stdout
    applied = recipes("apply", "eva6-s8")
    assert (applied.returncode, applied.stdout) == (0, expected)
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/eva6-s8.yaml").read_bytes()
    assert recipes("diff", "eva6-s8").stdout == "params.yaml has the values of the recipe already\n"
    assert recipes("apply", "demo").returncode == 0  # the recipe applied before is not lost


def test_an_uncommitted_change_is_named_and_kept_unless_forced(recipes):
    edited = (
        (ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 25").replace("lr_max: 0.4", "lr_max: 0.5")
    )
    Path("params.yaml").write_text(edited)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo", "eva4-s8"]:
        refused = recipes(*command)
        assert refused.returncode == 1
        assert refused.stderr == (
            "error: params.yaml has uncommitted changes: epochs, lr_max; commit them, or use --force\n"
        )
        assert Path("params.yaml").read_text() == edited
    assert recipes("apply", "demo", "--force").returncode == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/demo.yaml").read_bytes()


def test_an_interrupted_run_is_begun_again_by_the_same_command_but_no_other(recipes):
    recipe = (ROOT / "recipes/eva4-s8.yaml").read_text()
    left = recipe.replace("epochs: 20 ", "epochs: 10 ").replace("l1: 1.0e-05 ", "l1: 0.0 ")
    assert len({recipe, left, recipe.replace("epochs: 20 ", "epochs: 10 ")}) == 3
    Path("params.yaml").write_text(left)  # as `dvc exp run -S` leaves it
    for changes in [], ["epochs=10"], ["epochs=10", "l1=0.1"], ["epochs=10", "l1=0.0", "seed=1"], ["epoch=10"]:
        refused = recipes("run", "eva4-s8", *[word for change in changes for word in ("-S", change)])
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith(
            "error: -S epoch=10: " if changes == ["epoch=10"] else "error: params.yaml has"
        )
        assert Path("params.yaml").read_text() == left
    again = recipes("run", "eva4-s8", "-S", "epochs=10", "-S", "l1=0.0")
    assert "epochs: 10 -> 20\nl1: 0.0 -> 1e-05\n" in again.stdout  # and then no DVC repository
    assert Path("params.yaml").read_text() == recipe


def test_an_experiment_that_exists_or_a_wrong_change_is_refused_before_params_yaml_changes(recipes):
    before = Path("params.yaml").read_bytes()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["git", "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/demo-seed-1", commit], check=True)
    taken = recipes("run", "demo", "-S", "seed=1")
    assert taken.returncode == 1 and taken.stderr.startswith("error: the experiment demo-seed-1 exists; `dvc exp apply")
    taken = recipes("queue", "fast", "demo", "-S", "seed=1")
    assert taken.returncode == 1 and taken.stderr.startswith("error: the experiment demo-seed-1 exists; `dvc exp apply")
    for words in ["run", "demo"], ["run", "demo", "--force"], ["queue", "fast"]:
        wrong = recipes(*words, "-S", "epoch=3")
        assert wrong.returncode == 1 and wrong.stderr.startswith("error: -S epoch=3: "), wrong
    assert Path("params.yaml").read_bytes() == before


def test_without_a_name_in_git_one_line_says_how_to_set_it_and_nothing_changes(recipes, monkeypatch):
    before = Path("params.yaml").read_bytes()
    for role in "AUTHOR", "COMMITTER":  # as in a clone of a repository that alone has them
        monkeypatch.setenv(f"GIT_{role}_NAME", "c")
    assert git_identity() == {
        "GIT_AUTHOR_NAME": "c",
        "GIT_AUTHOR_EMAIL": "b",
        "GIT_COMMITTER_NAME": "c",
        "GIT_COMMITTER_EMAIL": "b",
    }
    subprocess.run(["git", "config", "--unset", "user.email"], check=True)
    for words in ["run", "demo"], ["queue", "demo"]:
        refused = recipes(*words)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith("error: DVC's experiments need your name and e-mail address")
        assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("epoch=3", "Invalid `--set-param` value"),
        ("epochs=range(1,3)", "cannot represent an object: RangeSweep"),
        ("epochs=${epoch}", "Interpolation key 'epoch' not found"),
        ("seed=???", "Missing mandatory value: seed"),
        ("~augment.0", "list indices must be integers or slices, not str"),
    ],
)
def test_a_change_that_dvc_cannot_make_is_one_line(change, told):
    with pytest.raises(InputError) as caught:
        values_with((ROOT / "params.yaml").read_text(), [change])
    assert str(caught.value).startswith(f"-S {change}: {told}") and "\n" not in str(caught.value)


def test_a_change_that_leaves_no_memory_is_no_mistake_in_it(monkeypatch):
    def fail(*_) -> None:
        raise MemoryError

    monkeypatch.setattr("dvc.utils.hydra.apply_overrides", fail)
    with pytest.raises(MemoryError):
        values_with("seed: 0\n", ["seed=1"])


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "100.1", "many"])
def test_a_difference_of_points_that_no_accuracies_have_is_refused(value, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["compare", "a", "b", f"--points={value}"])
    assert caught.value.code == 2 and "argument --points: " in capsys.readouterr().err


@pytest.mark.parametrize(("words", "points"), [([], 0.1), (["--points", "0.5"], 0.5), (["--points", "100"], 100)])
def test_a_difference_of_points_is_a_number(words, points):
    assert parse(["compare", "a", "b", *words]).points == points


@pytest.mark.parametrize("words", [["list"], ["apply", "fast"], ["queue", "fast"], ["compare", "fast", "demo"]])
def test_outside_the_root_every_command_says_where_to_run_it(recipes, words, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    refused = recipes(*words)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: recipes/ is missing; run this from the root of the repository\n"


def test_a_stage_that_is_stopped_advises_the_command_that_started_the_recipe(recipes, monkeypatch):
    real, seen = subprocess.Popen, {}

    def start(command: list[str], **options) -> subprocess.Popen:
        if "exp" not in command:
            return real(command, **options)
        seen.update(options["env"])
        return real([sys.executable, "-c", "raise SystemExit(130)"])

    monkeypatch.setattr(subprocess, "Popen", start)
    assert recipes("run", "fast", "-S", "seed=3").returncode == 130
    assert seen["CIFAR_AGAIN"] == "python -m recipes run fast -S seed=3"
    assert seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("damaged", [b"epochs: [24", b"epochs: 24 # \xff"])
def test_a_damaged_params_yaml_is_named_and_kept_unless_forced(recipes, damaged):
    Path("params.yaml").write_bytes(damaged)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo"]:
        refused = recipes(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith("error: params.yaml is not valid YAML")
        assert refused.stderr.endswith("; fix it, or use --force to replace it\n")
        assert Path("params.yaml").read_bytes() == damaged
    recipes("queue", "demo", "--force")  # ends in DVC's error: it is no repository of DVC's
    assert Path("params.yaml").read_bytes() == damaged
    assert recipes("apply", "demo", "--force").returncode == 0
    assert Path("params.yaml").read_bytes() == (ROOT / "recipes/demo.yaml").read_bytes()


def test_outside_version_control_nothing_is_replaced_unless_forced(recipes):
    shutil.rmtree(".git")
    refused = recipes("apply", "demo")
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: params.yaml is not committed; commit it, or use --force to replace it\n",
    )


def test_a_repository_of_another_user_is_gits_own_words_and_no_advice_to_force(recipes, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # Git's own means to test `safe.directory`
    edited = (ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 25")
    Path("params.yaml").write_text(edited)
    for command in ["apply", "demo"], ["run", "demo"], ["queue", "demo"]:
        refused = recipes(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused
        assert refused.stderr.startswith("error: git ") and "fatal: detected dubious ownership" in refused.stderr
        assert "safe.directory" in refused.stderr and "--force" not in refused.stderr
        assert Path("params.yaml").read_text() == edited


def test_an_unknown_recipe_is_one_line_that_names_the_known_ones(recipes):
    refused = recipes("apply", "eva4s8")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: there is no recipe 'eva4s8'; choose from best, demo, eva4-s11, ")


def test_comments_in_an_applied_recipe_are_a_change_too(recipes):
    noted = (ROOT / "recipes/eva4-s8.yaml").read_text() + "# my notes\n"
    Path("params.yaml").write_text(noted)
    assert recipes("run", "eva4-s8").stderr.startswith("error: params.yaml has uncommitted changes: ")
    assert Path("params.yaml").read_text() == noted


def test_a_recipe_that_is_not_utf_8_is_one_line(recipes):
    Path("recipes/mine.yaml").write_bytes("# \xe9\n".encode("latin-1"))
    for words in ["list"], ["apply", "mine"]:
        refused = recipes(*words)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: recipes/mine.yaml is not ") and refused.stderr.count("\n") == 1


def test_a_queue_that_was_killed_has_not_lost_params_yaml(recipes, monkeypatch):
    edited = (ROOT / "params.yaml").read_text().replace("epochs: 24", "epochs: 25")
    Path("params.yaml").write_text(edited)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # as far as a killed one gets
        recipes("queue", "demo", "--force")
    Path("params.yaml").write_text("")
    refused = recipes("queue", "demo", "--force")
    kept = ".dvc/tmp/params-before-queue.yaml"
    assert refused.stderr == (
        f"error: an earlier `queue` was killed; your params.yaml is {kept}: move it back or delete it\n"
    )
    assert Path(kept).read_text() == edited


def test_a_queue_needs_a_params_yaml_to_bring_back(recipes):
    Path("params.yaml").unlink()
    refused = recipes("queue", "demo")
    assert refused.stderr == (
        "error: params.yaml is missing; `git checkout -- params.yaml` brings the committed one back\n"
    )


@pytest.mark.slow
def test_a_stopped_experiment_leaves_the_branch_and_uncommitted_changes_as_they_were(tmp_path):
    """DVC detaches HEAD while an experiment runs, and puts it back when its stage has ended."""
    project = create(tmp_path)
    (project.folder / "README.md").write_text("my own")
    command = [sys.executable, "-m", "recipes", "run", "demo", "-S", "lr_find.steps=10", "-S", "epochs=100"]
    environment = project.environment | {"SHELL": "/bin/sh"}  # Debian's waits for its command, others become it
    with open(tmp_path / "said", "w") as said:
        running = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    while "images, " not in (tmp_path / "said").read_text():
        assert running.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)  # to this process alone, and not, as a terminal does, to DVC and the stage too
    assert running.wait() == 130
    assert project.git("symbolic-ref", "HEAD").strip() == "refs/heads/main"
    assert project.git("stash", "list") == ""
    assert (project.folder / "README.md").read_text() == "my own"
    assert (
        "stopped; run `python -m recipes run demo -S lr_find.steps=10 -S epochs=100`" in (tmp_path / "said").read_text()
    )


STAGES = """
import os, subprocess, time
time.sleep(1)
for stage in ["sleep", "600"], ["/bin/sh", "-c", "sleep 600; exit $?"]:
    ended = subprocess.run(stage, env=os.environ | {"DVC_STAGE": "train"})
    assert ended.returncode in (-15, 143), ended  # by its own signal, or as the shell says of its command
    subprocess.run(["sleep", "0.5"], check=True)
"""


def test_a_stop_ends_the_stages_that_start_after_it_too(monkeypatch):
    """DVC imports for seconds, and works between two stages. `sleep 0.5` stands for a git that it runs."""
    monkeypatch.setenv("SHELL", "/bin/sh")
    began = time.monotonic()
    dvc = subprocess.Popen([sys.executable, "-c", STAGES])
    end_stages_of(dvc)
    assert dvc.returncode == 0 and time.monotonic() - began < 60


@pytest.mark.slow
def test_a_recipe_runs_as_an_experiment_and_others_wait_in_line(tmp_path):
    project = create(tmp_path)
    small = {"dataset": "shapes", "shapes.train": 20, "shapes.test": 10, "val_size": 10, "gallery_size": 2}
    small |= {"batch_size": 5, "lr_find.steps": 10, "seed": 3}
    sets = [word for key, value in small.items() for word in ("-S", f"{key}={value}")]
    before = (project.folder / "params.yaml").read_bytes()

    queued = project.call(sys.executable, "-m", "recipes", "queue", "eva5-s9", "eva4-s8", "-S", "seed=3")
    assert queued.returncode == 0, queued.stdout + queued.stderr
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.git("status", "--porcelain") == ""
    waiting = project.dvc("queue", "status")
    assert "eva5-s9-seed-3" in waiting and "eva4-s8-seed-3" in waiting

    # ResNet18 with layer norm, Adam, a plateau's schedule, the best epoch, and training measured in eval mode
    more = ["-S", "epochs=2", "-S", "select=best", "-S", "train_scores=eval", "-S", "l1=1e-5"]
    command = [sys.executable, "-m", "recipes", "run", "resnet18-layernorm", "--name", "layers", *sets, *more]
    ran = project.call(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "epochs: 2 -> 48" in ran.stdout
    table = pd.read_csv(io.StringIO(project.dvc("exp", "show", "--csv")))
    (row,) = [row for _, row in table.iterrows() if row["Experiment"] == "layers"]
    assert (row["model.norm"], row["optimizer.name"]) == ("layer", "adam")
    history = pd.read_csv(project.folder / "plots/train/history.csv")
    metrics = json.loads((project.folder / "metrics/train.json").read_text())
    assert metrics["epoch"] == history["val_accuracy"].idxmax() + 1
    assert metrics["parameters"] == 11_173_962 and metrics["l1_penalty"] > 0
