"""What `make repro` and `make demo` run: `dvc repro` after mending what DVC cannot read, then where the results are."""

import subprocess
import sys
from pathlib import Path

from dvc.cli import main as dvc
from dvc.repo import Repo
from dvc.ui import ui

ROOT = Path(__file__).resolve().parents[1]
PUSH = "Use `dvc push` to send your updates to remote storage."


def main() -> None:
    if subprocess.run([sys.executable, Path(__file__).with_name("mend.py")]).returncode:
        sys.exit(1)
    if not Repo().config["remote"]:
        leave_out(PUSH)
    if status := dvc(["repro"]):
        sys.exit(status)

    print(flush=True)
    dvc(["metrics", "show", "metrics/evaluate.json"])
    print("\nPictures:", *sorted(map(seen_from_root, Path("plots").glob("*/*.png"))), sep="\n")
    print(f"\nAll on one page: {seen_from_root(Path('report/index.html'))}")


def seen_from_root(path: Path) -> str:
    """The path as a person at the root writes it, where `make` runs; a demo has a folder of its own."""
    path = path.absolute()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def leave_out(advice: str) -> None:
    """Keep DVC from printing `advice`."""
    write = ui.write

    def write_other(*words, **options) -> None:
        if words != (advice,):
            write(*words, **options)

    ui.write = write_other


if __name__ == "__main__":
    main()
