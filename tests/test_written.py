"""The files of a run, as the report reads them: whole, and damaged."""

import numpy as np
import pandas as pd
import pytest
from damage import FUZZ, damaged
from runs import make, write_run

from cifar.results.report import render
from cifar.results.vega import CHARTS
from cifar.results.written import load_run
from cifar.system.errors import InputError, one_line

pytestmark = pytest.mark.usefixtures("at_the_root")


def test_a_run_is_read_as_it_was_written(made, tmp_path):
    write_run(made[0], tmp_path)
    found = load_run(tmp_path)
    assert (found.metrics, found.card, found.summary) == (made[0].metrics, made[0].card, made[0].summary)
    for path, table in made[0].tables.items():
        pd.testing.assert_frame_equal(found.tables[path], table, check_dtype=False)


def test_any_damage_to_a_file_of_a_run_is_one_line_or_makes_a_page(tmp_path):
    run, *rest = make(tests=20)
    write_run(run, tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 16
    charts, refused = dict.fromkeys(CHARTS, "<svg></svg>"), 0
    for seed, path in enumerate(files):
        whole = path.read_bytes()
        for number, content in enumerate(damaged(np.random.default_rng(seed), [whole], max(2, FUZZ // 20))):
            path.write_bytes(content)
            try:
                found = load_run(tmp_path)
                if found.card["classes"] == run.card["classes"]:  # the stage refuses others
                    render(found, *rest, charts=charts)
            except InputError as error:
                refused += 1
                assert str(path).endswith(one_line(error).split()[0].rstrip(":")), (path.name, number)
            except Exception as error:
                raise AssertionError(f"{path.name} {number}: {error!r}") from error
        path.write_bytes(whole)
    assert refused > len(files)
