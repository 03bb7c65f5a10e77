"""What a user may set for make, and where: no text of theirs is run as a command, and nothing of theirs is deleted."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from projects import ROOT, contents


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout in a folder with a quote and a space in its name, with a repro.py that only says where it runs."""
    folder = tmp_path / "Anna's work"
    for name in ("stages", "cifar", "recipes", ".dvc/plots"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/demo.py", ".dvc/page.html"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "data/images").mkdir(parents=True)
    shutil.copyfile(ROOT / "data/images/README.md", folder / "data/images/README.md")
    (folder / "docs").mkdir()
    (folder / "docs/page.md").write_text("text")
    (folder / ".dvc/repro.py").write_text(
        "import os, sys; print('in', os.getcwd(), os.environ['CIFAR_AGAIN']); print(*sys.argv[1:])"
    )
    monkeypatch.chdir(folder)
    return folder


def make(*words: str, **environment: str) -> subprocess.CompletedProcess:
    command = ["make", "--assume-old=.venv/ready", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def refused(ended: subprocess.CompletedProcess) -> str:
    """The line that make's first command ended with; make adds one of its own."""
    assert ended.returncode == 2 and ended.stdout == "", ended
    line, makes = ended.stderr.splitlines()
    assert makes.startswith("make: ***")
    return line


@pytest.mark.parametrize(
    "name", [".demo", "docs 2", "a'b", 'a"b', "a;touch hit", "$(touch hit)", "a$b", "-rf", "`touch hit`"]
)
def test_a_demos_folder_may_have_any_name_and_its_params_any_path(checkout, name):
    before = contents(checkout)
    params = f"my {name}.yaml"
    shutil.copyfile("recipes/demo.yaml", params)
    for _ in range(2):  # into an empty folder, and again
        ended = make("demo", f"DEMO={name}", f"PARAMS={params}")
        assert ended.returncode == 0, ended.stderr
        assert f"in {checkout / name} make demo" in ended.stdout and ended.stdout.endswith(f"\n{name}\n")
    made = contents(checkout / name)
    assert made["params.yaml"] == (ROOT / "recipes/demo.yaml").read_bytes()
    assert {
        "stages/train.py",
        "cifar/config/params.py",
        "dvc.yaml",
        ".dvc/config",
        ".dvc/plots/bars.json",
    } <= made.keys()
    after = {path: content for path, content in contents(checkout).items() if not path.startswith(name + "/")}
    assert after == before | {params: made["params.yaml"]}


def test_a_demo_made_again_has_the_code_of_now_and_keeps_its_results(checkout):
    assert make("demo").returncode == 0
    Path(".demo/data").mkdir(exist_ok=True)
    Path(".demo/data/kept").write_text("result")
    Path(".demo/stages/gone.py").write_text("old")
    assert make("demo").returncode == 0
    assert Path(".demo/data/kept").exists() and not Path(".demo/stages/gone.py").exists()


def test_a_relative_folder_of_the_images_is_seen_from_where_make_was_called(checkout):
    Path(".dvc/repro.py").write_text("import os; print(os.environ['CIFAR10_DIR'])")
    ended = make("demo", CIFAR10_DIR="../raw")
    assert ended.stdout.splitlines()[-1] == str(checkout.parent / "raw")


def test_a_demos_own_params_may_be_its_params(checkout):
    assert make("demo").returncode == 0
    Path(".demo/params.yaml").write_text("seed: 7\n")
    assert make("demo", "PARAMS=.demo/params.yaml").returncode == 0
    assert Path(".demo/params.yaml").read_text() == "seed: 7\n"


@pytest.mark.parametrize(("name", "words"), [
    (".", "holds this project"),
    ("..", "holds this project"),
    ("/", "holds this project"),
    ("docs/..", "holds this project"),
    ("link", "holds this project"),
    ("docs", "holds files that no demo made"),
    ("Makefile", "is a file"),
    ("stages/new", "inside what a demo copies"),
    ("cifar/data/new", "inside what a demo copies"),
    (".dvc/plots/new", "inside what a demo copies"),
    ("", "holds this project"),
])  # fmt: skip
def test_a_folder_that_no_demo_made_is_refused_and_nothing_in_it_changes(checkout, name, words):
    Path("link").symlink_to(".")
    before = contents(checkout)
    assert words in refused(make("demo", f"DEMO={name}"))
    assert contents(checkout) == before


@pytest.mark.parametrize("inner", ["stages", "cifar", ".dvc", ".dvc/config.local", "params.yaml"])
def test_a_demo_with_links_into_the_checkout_is_refused(checkout, inner):
    assert make("demo").returncode == 0
    demo, target = Path(".demo", inner), checkout / inner
    if inner in (".dvc", ".dvc/config.local"):  # by which a demo is known
        (checkout / ".dvc/config.local").write_bytes(Path(".demo/.dvc/config.local").read_bytes())
    shutil.rmtree(demo) if demo.is_dir() else demo.unlink()
    demo.symlink_to(target)
    before = contents(checkout)
    assert "is a symbolic link, which no demo makes" in refused(make("demo"))
    assert contents(checkout) == before


def test_params_that_are_not_there_are_one_line(checkout):
    assert refused(make("demo", "PARAMS=recipes/none.yaml")).startswith(
        "error: PARAMS is 'recipes/none.yaml', which is"
    )
    assert not Path(".demo").exists()


def test_a_python_with_a_blank_in_its_path_is_one_program(checkout):
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, name)
    ended = subprocess.run(["make", "PYTHON=no such;touch hit", ".venv/ready"], capture_output=True, text=True)
    assert ended.returncode == 2 and "no such;touch hit" in ended.stderr and not Path("hit").exists()


def test_the_paths_of_results_are_those_that_the_caller_can_open(tmp_path, monkeypatch):
    for name in ("plots/stats/samples.png", "plots/gradcam/correct.png"):
        (tmp_path / ".demo" / name).parent.mkdir(parents=True)
        (tmp_path / ".demo" / name).touch()
    monkeypatch.chdir(tmp_path / ".demo")
    list_results = runpy.run_path(str(ROOT / ".dvc/repro.py"))["list_results"]
    assert list_results(Path()) == "\nReport: report/index.html\nPictures: 2 in plots/"
    assert list_results(Path(".demo")) == "\nReport: .demo/report/index.html\nPictures: 2 in .demo/plots/"


def test_python_looks_for_stages_in_the_current_folder_though_the_user_forbids_it(checkout):
    (checkout / ".dvc/repro.py").write_text("import os; print(os.environ.get('PYTHONSAFEPATH'))")
    assert make("repro", PYTHONSAFEPATH="1").stdout == "None\n"


def test_only_make_kills_kills(checkout, tmp_path, monkeypatch):
    tmp_path.joinpath("python").write_text('#!/bin/sh\necho "KILLS is $KILLS"\n')
    tmp_path.joinpath("python").chmod(0o755)
    monkeypatch.delenv("KILLS", raising=False)
    text = Path("Makefile").read_text()
    assert "export PATH := $(CURDIR)/.venv/bin:" in text
    Path("Makefile").write_text(text.replace("$(CURDIR)/.venv/bin:", f"{tmp_path}:"))
    for words, said in ((["test"], ""), (["kills"], "54"), (["kills", "KILLS=10"], "10")):
        assert make(*words).stdout == f"KILLS is {said}\n"


def test_no_variable_of_make_is_pasted_into_a_command():
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]
    assert recipes and not re.findall(r"\$\((?!SHOWN\))[A-Z]+\)", "\n".join(recipes))


def test_every_action_of_the_workflow_is_pinned_by_hash():
    used = re.findall(r"uses: (.*)", (ROOT / ".github/workflows/ci.yml").read_text())
    assert used and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used)


def test_a_clone_of_a_git_that_changes_line_ends_has_the_same_bytes(tmp_path):
    """dvc.lock has the hashes of the files as they are committed (`core.autocrlf=true` is usual on Windows)."""
    for name in (".gitattributes", "params.yaml", "stages/train.py"):
        (tmp_path / "origin" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "origin" / name)
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=b"]
    for words in ["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=start"]:
        subprocess.run([*git, *words], cwd=tmp_path / "origin", check=True)
    subprocess.run([*git, "clone", "--quiet", "origin", "clone"], cwd=tmp_path, check=True)
    for name in ("params.yaml", "stages/train.py"):
        assert (tmp_path / "clone" / name).read_bytes() == (ROOT / name).read_bytes()
