"""The range test's chart: its axis and marks, a legend that hides nothing, and the same bytes each time."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cifar.results.charts import draw_range_test


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figures of two drawings of one curve, one.png and two.png."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (figures.append(self), save(self, *args, **options))
    )
    lrs = np.geomspace(1e-4, 10, 50)
    curve = pd.DataFrame({"lr": lrs, "loss": 2 - lrs.clip(max=1), "smoothed_loss": 2.1 - lrs.clip(max=1)})
    for name in ("one.png", "two.png"):
        draw_range_test(tmp_path / name, curve, {"lr_max": 0.385, "lr_min": 0.00933})
    return figures


def test_chart_has_a_log_axis_and_marks_the_suggestion(drawn, tmp_path):
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert sorted(line.get_xdata()[0] for line in axes.lines[2:]) == [0.00933, 0.385]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_legend_covers_no_line_and_is_not_cut_off(drawn, tmp_path):
    figure, picture = drawn[0], np.asarray(Image.open(tmp_path / "one.png").convert("L"))
    assert figure.legends[0].get_window_extent().y1 < figure.axes[0].get_tightbbox().y0  # below the axes
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()
