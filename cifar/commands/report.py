"""`python -m cifar report`: runs on one page, compared."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cifar.results.revisions import copy_files
from cifar.results.side_by_side import FILES, MOST, Side, compare_page, load_side
from cifar.system.files import write_text
from cifar.system.process import InputError, run

PAGE = Path("report/comparison.html")
WORKSPACE = "workspace"  # DVC's word for the files as they are


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cifar report",
        description="Compare runs on one page: metrics with intervals, settings, curves, and the images that only one "
        "of two networks gets right. The page opens from disk. Like the data it shows, it does not belong into Git.",
    )
    text = f"an experiment, a revision of Git, or {WORKSPACE}; the first is compared with each of the others"
    parser.add_argument("revisions", metavar="REV", nargs="+", help=text)
    parser.add_argument("--out", type=Path, default=PAGE, metavar="FILE", help=f"the page (default: {PAGE})")
    arguments = parser.parse_args(words)
    run(lambda: write_page(arguments.revisions, arguments.out), "give the same command again")


def write_page(names: Sequence[str], out: Path) -> None:
    """Raises InputError when a run is unknown, given twice, or has no results that can be read."""
    names = [*names, WORKSPACE] if len(names) == 1 else names
    if len({*names}) < len(names):
        raise InputError(f"{max(names, key=names.count)} is given twice; give the names of different runs")
    if len(names) > MOST:
        raise InputError(f"{len(names)} runs are too many for one page; give at most {MOST}")
    with TemporaryDirectory() as folder:
        sides = [load(name, Path(folder, str(number))) for number, name in enumerate(names)]
        page = compare_page(sides)
    write_text(out, page)
    print(f"written: {out} ({len(page.encode()) / 1e6:.1f} MB)")


def load(name: str, folder: Path) -> Side:
    """A run from the workspace, or from the files of a revision, which are copied to `folder`."""
    if name == WORKSPACE:
        return load_side(name)
    copy_files(name, FILES, folder)
    try:
        return load_side(name, folder)
    except InputError as error:
        what = str(error).partition("; ")[0].replace(f"{folder}/", "")
        raise InputError(f"{name}: {what}; give a run of this pipeline, or look for damage with `make mend`") from None
