"""Tests run on the processor; what several files of tests look at, the pipeline's first run, takes most of a minute."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from browser import Page, browser
from projects import Project, create

with suppress(ImportError):  # a GPU machine lacks it
    from hypothesis import settings

    settings.load_profile("ci")  # the same examples each time, here as on GitHub

# The groups of tests that take half a minute or more.
LONGEST = [
    "test_processes.py",
    "pipeline",
    "test_recipe_commands.py",
    "test_compiling.py",
    "test_gradcam.py",
    "test_many_machines.py",
]


def pytest_configure(config):
    """Hide a GPU before torch looks, but for `-m gpu`: all other tests compare with the processor's own results.

    Under `make test` a test's own make would take itself for a part of that one, and say more than it does alone. And
    what a person has set for Git or for runs of the pipeline is not for the tests.
    """
    own = "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PROCESSES", "NODES", "NODE", "RENDEZVOUS", "CARRY_ON"
    own += "DEMO", "PARAMS", "PYTHON"
    prefixes = "GIT_", "DVC_", "CIFAR_", "TORCHELASTIC_"
    for name in [name for name in os.environ if name in own or name.startswith(prefixes)]:
        del os.environ[name]
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Project, str]:
    """The pipeline after its first `dvc repro`, committed, and what that printed."""
    project = create(tmp_path_factory.mktemp("pipeline"))
    printed = project.dvc("repro")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=results")
    return project, printed


@pytest.fixture(scope="session")
def project(first_run) -> Project:
    """After its first run; who uses it leaves it as it was."""
    return first_run[0]


@pytest.fixture(scope="session")
def made() -> tuple:
    """The arguments of `report.render` for a run drawn at random."""
    import runs  # draws charts, with packages that a GPU machine lacks

    return runs.make()


@pytest.fixture
def at_the_root(monkeypatch):
    """The templates of charts are found from there."""
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """A tab of a browser."""
    with browser() as tab:
        yield tab


@pytest.fixture(autouse=True)
def _the_same_numbers_for_each_test_in_any_order(request):
    """A file of tests may draw from a generator of its own, RANDOM."""
    if hasattr(request.module, "RANDOM"):
        request.module.RANDOM = np.random.default_rng(0)


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process: those that look at the first run, and those of each file."""
    return "pipeline" if "first_run" in item.fixturenames else item.path.name


@pytest.hookimpl(tryfirst=True)  # before xdist, which looks for the groups in its own
def pytest_collection_modifyitems(items):
    """Name each test's group for xdist, and put the longest groups first, so that two processes end together."""
    items.sort(key=lambda item: LONGEST.index(group_of(item)) if group_of(item) in LONGEST else len(LONGEST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
