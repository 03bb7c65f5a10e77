"""Charts as PNG: the curve of the learning rate range test."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cifar.results.figures import matplotlib_defaults, save_png


@matplotlib_defaults()
def draw_range_test(path: str | Path, curve: pd.DataFrame, suggestion: dict[str, float], warning: str = "") -> None:
    """Write a PNG of the loss, raw and smoothed, over the learning rate on a log axis.

    `curve` has the columns lr, loss and smoothed_loss. `suggestion` maps names to learning rates, which are marked.
    A `warning` is written in red above the chart.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve["lr"], curve["loss"], color="0.75", linewidth=1, label="loss of each step")
    axes.plot(curve["lr"], curve["smoothed_loss"], color="C0", linewidth=2, label="smoothed")
    for (name, lr), style in zip(suggestion.items(), ("-", "--"), strict=False):
        axes.axvline(lr, color="C3", linestyle=style, linewidth=1.2, label=f"suggested {name} = {lr:.3g}")
    first_loss = curve["smoothed_loss"].iloc[0]
    highest = min(1.6 * first_loss, curve["loss"].max())  # where training diverges, the loss may be many times higher
    axes.set_ylim(curve["loss"].min() - 0.05 * first_loss, highest + 0.05 * first_loss)
    axes.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss", title="Learning rate range test")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)  # below the axes, where it covers no line
    if warning:
        figure.suptitle(warning.replace("; ", ";\n"), color="C3", fontsize=10, wrap=True)
    save_png(figure, path, dpi=120)
