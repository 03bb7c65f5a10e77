"""Write the project modules that each stage imports into its `deps` in dvc.yaml, and change nothing else there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "cifar", "stages"


def main() -> None:
    path = Path("dvc.yaml")
    before = path.read_text(encoding="utf-8")
    after = with_code_deps(before)
    if before != after:
        part = path.with_suffix(".part")
        part.write_text(after, encoding="utf-8")
        part.replace(path)
    print("dvc.yaml: deps " + ("written" if before != after else "were up to date"))


def with_code_deps(text: str) -> str:
    """The `text` of dvc.yaml with the `.py` entries of each stage's `deps` replaced by the modules that it imports.

    The script comes first, then its modules in alphabetical order, then the artifacts in the order that they have.
    """

    def renew(block: re.Match) -> str:
        stage, head, entries = block["stage"], block["head"], block["entries"]
        artifacts = [line for line in entries.splitlines(keepends=True) if not re.match(r" +- \S+\.py\b", line)]
        script = f"stages/{stage}.py"
        modules = [name for name in code_of(script) if name != script]
        return head + "".join(f"    - {name}\n" for name in [script, *modules]) + "".join(artifacts)

    stage_with_deps = r"(?P<head>^  (?P<stage>\w+):\n(?:    .*\n)*?    deps:\n)(?P<entries>(?:    - .*\n)+)"
    return re.sub(stage_with_deps, renew, text, flags=re.MULTILINE)


def code_of(script: str) -> list[str]:
    """`script` and all files of the project that it imports, inside functions too, directly or through other files."""
    reached, ahead = set(), [script]
    while ahead:
        path = ahead.pop()
        if path not in reached:
            reached.add(path)
            ahead += imported_files(Path(path))
    return sorted(reached)


def imported_files(path: Path) -> Iterator[str]:
    """The files of the project that the file at `path` imports itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            if name.split(".")[0] in PACKAGES and file.is_file():
                yield file.as_posix()


if __name__ == "__main__":
    main()
