"""The results of earlier runs: experiments and revisions by name, their files from Git and DVC's cache."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cifar.system.errors import InputError, one_line


def git(*words: str, check: bool = True) -> str:
    """What git prints. If git fails: InputError with `check`, else an empty text. InputError if it is not UTF-8."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        ended = subprocess.run(["git", *words], capture_output=True, text=True, encoding="utf-8", env=environment)
    except UnicodeDecodeError:
        raise InputError(f"{words[-1]} is not UTF-8 text; commit it as UTF-8") from None
    if check and ended.returncode:
        command = words[2] if words[0] == "-C" else words[0]
        raise InputError(f"git {command} failed: {' '.join(ended.stderr.split())}")
    return "" if ended.returncode else ended.stdout


def experiments(name: str) -> list[str]:
    """The commits of the DVC experiments of that name, the newest first."""
    form = "--format=%(objectname) %(refname:lstrip=4)"
    lines = git("for-each-ref", "--sort=-committerdate", form, "refs/exps/*/*/*").splitlines()
    return [commit for commit, _, found in (line.partition(" ") for line in lines) if found == name]


def find_commit(name: str, *other_kinds: str) -> str:
    """The commit of a DVC experiment or a revision of Git; raises InputError unless there is exactly one.

    The message says that it is none of `other_kinds` either.
    """
    revision = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False).split()
    commits = experiments(name) or revision
    if not commits:
        kinds = [*other_kinds, "experiment (`dvc exp list -A`)"]
        raise InputError(f"{name!r} is {', '.join(f'no {kind}' for kind in kinds)} and no revision of Git")
    if len(commits) > 1:
        raise InputError(f"{len(commits)} experiments are called {name}; give the commit of one: {', '.join(commits)}")
    return commits[0]


def stages_up_to(name: str, lock: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries in a dvc.lock of a stage and of all that make what it reads; none when it has not run."""
    makers = {out["path"]: stage for stage, entry in lock.items() for out in entry.get("outs", [])}
    found, ahead = {}, [name]
    while ahead:
        stage = ahead.pop()
        if stage in lock and stage not in found:
            found[stage] = lock[stage]
            read = [Path(dep["path"]) for dep in lock[stage].get("deps", [])]
            ahead += [makers[str(part)] for path in read for part in (path, *path.parents) if str(part) in makers]
    return list(found.values())


def copy_files(name: str, paths: Iterable[str], folder: Path) -> None:
    """Copy the files of the revision `name` to `folder`; a file that the revision does not have is left out.

    Raises InputError when the revision has a file that is neither in DVC's cache nor in its remote.
    """
    from dvc.api import DVCFileSystem  # two seconds to import
    from dvc.exceptions import DvcException

    commit = find_commit(name)
    if not git("ls-tree", commit, "--", "dvc.lock"):
        raise InputError(f"{name} has no dvc.lock, and so no results; give a commit or an experiment with results")
    try:
        files = DVCFileSystem(rev=commit)
        for path in filter(files.exists, paths):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                files.get_file(path, str(folder / path))
            except FileNotFoundError:
                raise InputError(f"{path} of {name} is not in DVC's cache; {_way_to_get(name, commit)}") from None
    except (DvcException, OSError) as error:
        raise InputError(f"the files of {name} cannot be read: {one_line(error)}") from None


def _way_to_get(name: str, commit: str) -> str:
    from dvc.repo import Repo

    # `dvc exp pull` takes a remote of Git, and gets the files from DVC's; a commit's own files need DVC's alone.
    found = git("for-each-ref", "--format=%(refname:lstrip=4)", "--points-at", commit, "refs/exps/*/*/*").split()
    remotes = git("remote").split()
    if Repo().config["remote"]:  # that of a DVCFileSystem has the cache as a remote, too
        if found and remotes:
            return (
                f"`dvc exp pull {'origin' if 'origin' in remotes else remotes[0]} {found[0]}` gets it from the remote"
            )
        if not found:
            return "`dvc fetch --all-commits` gets it from the remote"
    return f"no remote is set that could have it; `dvc repro` in a checkout of {name} makes it again"
