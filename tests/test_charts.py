"""The range test's picture: what is in it, and that its bytes repeat."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cifar.charts import draw_range_test


def test_chart_has_a_log_axis_and_marks_the_suggestion(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (drawn.append(self), save(self, *args, **options))
    )
    lrs = np.geomspace(1e-4, 10, 50)
    curve = pd.DataFrame({"lr": lrs, "loss": 2 - lrs.clip(max=1), "smoothed_loss": 2.1 - lrs.clip(max=1)})
    for name in ("one.png", "two.png"):
        draw_range_test(tmp_path / name, curve, {"lr_max": 0.5, "lr_min": 0.01})
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert sorted(line.get_xdata()[0] for line in axes.lines[2:]) == [0.01, 0.5]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
