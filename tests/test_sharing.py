"""docs/sharing.md, command by command: others get every result, or the model alone, from a Git and a DVC remote."""

import re
from pathlib import Path

import pytest
from projects import ROOT, Project, stages_run

PAGE = (ROOT / "docs/sharing.md").read_text()
SET_UP = "make .venv/ready\nsource .venv/bin/activate\n"
MODEL = {"model.json", "model.onnx", "model.safetensors", "summary.txt"}


def blocks(heading: str) -> list[str]:
    """The console blocks under a heading, as scripts."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix("$ ") + "\n" for line in block.splitlines()) for block in found]


def do(project: Project, script: str, home: Path) -> str:
    """What the script prints, with the addresses in `home` in place of those of the page; each line must succeed.

    The line that sets up an environment is left out: it would install all packages once more.
    """
    script = script.replace(" && ", "\n").replace(SET_UP, "")
    script = script.replace("/mnt/shared/cifar", str(home / "store"))
    script = script.replace("git@example.org:you/cifar.git", str(home / "cifar.git"))
    ended = project.call("sh", "-ec", script)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def home(project, tmp_path_factory) -> Path:
    """A folder with the repository of a person who has shared the results: `mine`, `cifar.git` and the DVC `store`."""
    home = tmp_path_factory.mktemp("sharing")
    project.git("clone", "--quiet", "--bare", ".", str(home / "cifar.git"))
    project.git("clone", "--quiet", str(home / "cifar.git"), str(home / "mine"))
    mine = Project(home / "mine", project.environment)
    (mine.folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.folder}/.dvc/cache\n")
    mine.dvc("checkout", "--quiet")
    remote, results = blocks("You")
    do(mine, remote, home)
    do(
        mine, results.replace("git commit", "git commit --allow-empty"), home
    )  # those of the first run, committed before
    return home


def other(project: Project, home: Path, name: str) -> Project:
    """An empty folder of a person with another machine."""
    (home / name).mkdir()
    site = {f"DVC_{kind}": str(home / f"{name}-{kind}") for kind in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR")}
    return Project(home / name, project.environment | site)


def test_a_colleague_gets_every_result_and_runs_nothing(project, home):
    colleague = other(project, home, "colleague")
    (script,) = blocks("A colleague")
    assert SET_UP in script.replace(" && ", "\n")
    printed = do(colleague, script, home)
    assert stages_run(printed) == [] and "Data and pipelines are up to date." in printed
    clone = colleague.folder / "cifar"
    for name in ("models/model.onnx", "data/predictions.npz", "report/index.html", "plots/gradcam/correct.png"):
        assert (clone / name).read_bytes() == (project.folder / name).read_bytes()


def test_anyone_gets_a_version_of_the_model_without_a_clone(project, home):
    tag, get = blocks("Only the model")
    do(Project(home / "mine", project.environment), tag, home)
    user = other(project, home, "user")
    do(user, get, home)
    assert {path.name for path in (user.folder / "models").iterdir()} - {".gitignore"} == MODEL
    for name in MODEL:
        assert (user.folder / "models" / name).read_bytes() == (project.folder / "models" / name).read_bytes()


def test_the_run_cache_does_not_stand_in_for_the_lock(project, home):
    """`download` is taken from it, `stats` runs again: DVC leaves the files that Git holds out of the remote."""
    Project(home / "mine", project.environment).dvc("push", "--run-cache")
    user = other(project, home, "without-lock")
    user.git("clone", "--quiet", str(home / "cifar.git"), ".")
    (user.folder / "dvc.lock").unlink()
    printed = user.dvc("repro", "--pull", "stats")
    assert "Stage 'download' is cached" in printed and stages_run(printed) == ["stats"]
