"""Run the whole pipeline in a folder of its own: what `make demo` does, with DEMO (the folder) and PARAMS set.

The folder gets a copy of the code and of the params, and is a DVC repository without Git.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "stages",
    "cifar",
    "dvc.yaml",
    ".dvcignore",
    ".dvc/config",
    ".dvc/page.html",
    ".dvc/plots",
    "data/images/README.md",
)
# .dvc/config.local of a demo, by which a later `make demo` knows its own folder.
SETTINGS = "[core]\n    no_scm = true\n"


def main() -> None:
    folder, params = Path(os.environ["DEMO"]), Path(os.environ["PARAMS"])
    refuse_other_folders(folder)
    if not params.is_file():
        sys.exit(f"error: PARAMS is {str(params)!r}, which is not a file; name a recipe, such as recipes/demo.yaml")
    fill(folder, params)

    command = "make demo" + "".join(
        f" {name}={shlex.quote(os.environ[name])}"
        for name, value in (("DEMO", ".demo"), ("PARAMS", "recipes/demo.yaml"))
        if os.environ[name] != value
    )
    os.environ["CIFAR_AGAIN"] = command  # what messages name in place of `dvc repro`
    if os.environ.get("CIFAR10_DIR"):  # as seen from here
        os.environ["CIFAR10_DIR"] = os.path.abspath(os.environ["CIFAR10_DIR"])
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, ROOT / ".dvc/repro.py", folder])


def refuse_other_folders(folder: Path) -> None:
    """End with one line unless `folder` is new, empty or of an earlier demo."""
    target = folder.resolve()
    if target == ROOT or target in ROOT.parents:
        sys.exit(f"error: DEMO is {str(folder)!r}, which holds this project; name a folder of its own")
    if any(source in (target, *target.parents) for source in (ROOT / name for name in COPIED)):
        sys.exit(f"error: DEMO is {str(folder)!r}, inside what a demo copies; name a folder outside of it")
    if target.exists() and not target.is_dir():
        sys.exit(f"error: DEMO is {str(folder)!r}, which is a file; name a folder")
    if not is_demo(target) and target.is_dir() and any(target.iterdir()):
        sys.exit(f"error: DEMO is {str(folder)!r}, which holds files that no demo made; name a new or empty folder")
    for name in (*COPIED, ".dvc", ".dvc/config.local", "data", "data/images", "params.yaml"):
        if (target / name).is_symlink():
            sys.exit(f"error: {str(folder / name)!r} is a symbolic link, which no demo makes; remove it")


def is_demo(folder: Path) -> bool:
    try:
        return (folder / ".dvc/config.local").read_bytes() == SETTINGS.encode()
    except (FileNotFoundError, NotADirectoryError):
        return False


def fill(folder: Path, params: Path) -> None:
    """Copy the code and `params` to `folder`, in place of those of an earlier demo; its data and results stay."""
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    (folder / ".dvc/config.local").write_text(SETTINGS)  # first: a demo that is stopped now is known by it
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if params.resolve() != (folder / "params.yaml").resolve():
        shutil.copyfile(params, folder / "params.yaml")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(
            f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error.strerror or error}"
        )
