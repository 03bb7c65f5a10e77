"""The results of a GPU: what each step found, in one JSON file, and the files of the runs, in one zip archive.

Both are written whole after each change, so that whatever ends the program leaves what was known until then.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Any

from cifar.system.errors import InputError
from cifar.system.files import read_json, replacing, write_json

RESULTS, FILES = "results.json", "runs.zip"
STATES = "done", "failed", "stopped", "running"


class Journal:
    """What is known of each step, in `folder`.

    An entry has `state`, one of STATES, `device`, and what the step found. Results that are not there, but in
    `earlier`, are taken from there: a folder for results may be a new one for each call. A damaged file is set aside
    with one line.
    """

    def __init__(self, folder: Path, earlier: Path, machine: dict[str, Any]):
        self.results, self.files, self.machine = folder / RESULTS, folder / FILES, machine
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self.results, self.files):
            if not path.exists() and (earlier / path.name).exists():
                shutil.copy(earlier / path.name, path)
        self.steps = self._read()
        self._write()

    def is_done(self, name: str) -> bool:
        """Whether the step has been done, on a device of this kind."""
        entry = self.steps.get(name, {})
        return entry.get("state") == "done" and entry.get("device") == self.machine["device"]

    def record(self, name: str, state: str, **found: Any) -> None:
        self.steps[name] = {"state": state, "device": self.machine["device"]} | found
        self._write()

    def keep(self, name: str, paths: dict[str, Path]) -> None:
        """Put files into the archive, as <name>/<their names there>; those of an earlier try of the step go."""
        with replacing(self.files) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in self._archived():
                if not entry.filename.startswith(f"{name}/"):
                    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
            for inside, path in paths.items():
                archive.write(path, f"{name}/{inside}")

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.results.exists():
            return {}
        try:
            steps = read_json(self.results)["steps"]
            if not all(entry["state"] in STATES for entry in steps.values()):
                raise ValueError
        except (InputError, LookupError, TypeError, ValueError, AttributeError):
            _set_aside(self.results)
            return {}
        return steps

    def _write(self) -> None:
        write_json(self.results, {"machine": self.machine, "steps": self.steps})

    def _archived(self) -> list[tuple[zipfile.ZipInfo, bytes]]:
        if not self.files.exists():
            return []
        try:
            with zipfile.ZipFile(self.files) as archive:
                return [(entry, archive.read(entry)) for entry in archive.infolist()]
        except MemoryError:
            raise
        except Exception:  # zipfile and zlib raise errors of many kinds for a damaged archive
            _set_aside(self.files)
            return []


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    print(f"{path} is damaged; it is now {aside.name}, and the steps in it run again", flush=True)
