"""The range test's chart: its axis and marks, a legend that hides nothing, and the same bytes each time."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from pixels import MATPLOTLIBRC

from cifar.results.charts import draw_range_test

CURVE = pd.DataFrame({"lr": np.geomspace(1e-4, 10, 50)})
CURVE["loss"] = 2 - CURVE["lr"].clip(upper=1)
CURVE["smoothed_loss"] = CURVE["loss"] + 0.1
SUGGESTION = {"lr_max": 0.385, "lr_min": 0.00933}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figures of two drawings of one curve: one.png, and two.png with a matplotlibrc that changes a lot."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (figures.append(self), save(self, *args, **options))
    )
    draw_range_test(tmp_path / "one.png", CURVE, SUGGESTION)
    with matplotlib.rc_context(MATPLOTLIBRC):
        draw_range_test(tmp_path / "two.png", CURVE, SUGGESTION)
    return figures


def test_chart_has_a_log_axis_and_marks_the_suggestion(drawn, tmp_path):
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert sorted(line.get_xdata()[0] for line in axes.lines[2:]) == [0.00933, 0.385]


def test_chart_has_the_same_bytes_whatever_matplotlibrc_says(drawn, tmp_path):
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_warning_stands_above_the_title_and_is_not_cut_off(tmp_path):
    draw_range_test(tmp_path / "warned.png", CURVE, SUGGESTION, "lr_max is the highest rate of the range. " * 3)
    picture = np.asarray(Image.open(tmp_path / "warned.png").convert("RGB")).astype(int)
    is_red = (picture[..., 0] > 150) & (picture[..., 1:] < 100).all(axis=2)
    rows, columns = np.flatnonzero(is_red.any(axis=1)), np.flatnonzero(is_red[:60].any(axis=0))
    assert 0 < rows.min() < 30 and columns.size and columns.min() > 2 and columns.max() < picture.shape[1] - 3


def test_legend_covers_no_line_and_is_not_cut_off(drawn, tmp_path):
    figure, picture = drawn[0], np.asarray(Image.open(tmp_path / "one.png").convert("L"))
    assert figure.legends[0].get_window_extent().y1 < figure.axes[0].get_tightbbox().y0  # below the axes
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()
