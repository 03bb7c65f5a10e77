"""Tests run on the processor; what several files of tests look at, the pipeline's first run, takes most of a minute."""

import os

# Before torch looks: the tests compare with computations of their own on the processor.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
from projects import Project, create


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


def pytest_collection_modifyitems(items):
    """Run the tests that look at the first run before all others, since they take longest; group tests by process.

    Where tests run on several processes, each file has one to itself, and all that look at the first run share one.
    """
    items.sort(key=lambda item: "first_run" not in item.fixturenames)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("pipeline" if "first_run" in item.fixturenames else item.path.name))
