"""The pipeline's stages; and a project of a test's own: a Git and DVC repository with this code and a few images."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from cifar.config.params import read_yaml

ROOT = Path(__file__).parents[1]
STAGES = ["download", "stats", "lr_find", "train", "evaluate", "misclassified", "gradcam", "export", "report"]
PIPELINE = read_yaml(ROOT / "dvc.yaml")["stages"]
TREE = [
    "stages",
    "cifar",
    "recipes",
    "dvc.yaml",
    "params.yaml",
    ".gitattributes",
    ".gitignore",
    ".dvcignore",
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/demo.py",
    ".dvc/mend.py",
    ".dvc/page.html",
    ".dvc/repro.py",
    ".dvc/plots",
    "Makefile",
    "data/images/README.md",
]
TINY = {
    "dataset": "shapes",
    "shapes.train": 40,
    "shapes.test": 50,
    "val_size": 20,
    "epochs": 2,
    "batch_size": 10,
    "schedule.peak_epoch": 1,
    "lr_max": "find",
    "lr_min": 0.001,
    "lr_find.lr_start": 0.001,
    "lr_find.lr_end": 1.0,
    "lr_find.steps": 16,
    "lr_find.smoothing": 0.3,
    "lr_find.stop_factor": 3.0,
    "gallery_size": 6,
}

# First in PYTHONPATH, this notes in $READS_LOG which files of the current folder each stage opens for reading.
SPY = """
import os, sys
if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("stages."):
    log = os.open(os.environ["READS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def note(event, args):
        if event == "open" and isinstance(args[0], str) and args[2] & os.O_ACCMODE == os.O_RDONLY:
            path = os.path.relpath(args[0])
            if not path.startswith("..") and not path.endswith((".py", ".pyc", ".part")) and ".part/" not in path:
                os.write(log, f"{sys.orig_argv[2][7:]} {path}\\n".encode())
    sys.addaudithook(note)
"""


def outputs(stage: str, *kinds: str) -> list[str]:
    """What the stage writes; with `kinds` (outs, metrics, plots) that of these kinds alone."""
    entries = [entry for kind in kinds or ("outs", "metrics", "plots") for entry in PIPELINE[stage].get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def stages_run(printed: str) -> list[str]:
    """The stages that `dvc repro` or `dvc exp run` says it ran."""
    return re.findall(r"^Running stage '(\w+)'", printed, re.MULTILINE)


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder and the folders in it, by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Project(NamedTuple):
    """A Git and DVC repository with the project's code, and the environment in which its commands run."""

    folder: Path
    environment: dict[str, str]

    def call(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    def dvc(self, *arguments: str) -> str:
        """What dvc says; it must succeed."""
        ended = self.call(sys.executable, "-m", "dvc", *arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def git(self, *arguments: str) -> str:
        ended = self.call("git", *arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def stage(self, name: str) -> subprocess.CompletedProcess:
        return self.call(sys.executable, "-m", f"stages.{name}")

    def clone(self, folder: Path) -> "Project":
        self.git("clone", "--quiet", ".", str(folder))
        return Project(folder, self.environment)


def create(home: Path) -> Project:
    """A new project, committed, in a folder of `home`; nothing has run in it."""
    from dvc.utils.hydra import apply_overrides  # tests on a GPU machine, which may lack DVC, need no project

    folder = home / "project"
    for name in TREE:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    apply_overrides(folder / "params.yaml", [f"{key}={value}" for key, value in TINY.items()])
    (home / "spy").mkdir()
    (home / "spy/sitecustomize.py").write_text(SPY)

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "CIFAR"))}
    identity = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = kept | identity | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(home / "spy"),
        "READS_LOG": str(home / "reads.log"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"DVC_{name}": str(home / name) for name in ("SITE_CACHE_DIR", "GLOBAL_CONFIG_DIR", "SYSTEM_CONFIG_DIR")},
    }  # fmt: skip
    project = Project(folder, environment)
    project.git("init", "--quiet", "--initial-branch=main")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=code")
    return project
