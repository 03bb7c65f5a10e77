"""DVC's charts as SVG: its templates in .dvc/plots, filled by its own renderer, drawn without network and browser."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import vl_convert
from dvc_render.vega import VegaRenderer

TEMPLATES = Path(".dvc/plots")
VERSION = "5.21"  # of Vega-Lite: the templates are in version 5
# Okabe and Ito: told apart when colour-blind.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
WIDTH, HEIGHT = 400, 250  # of curves: narrower than on DVC's page, so that letters stay readable on a phone
LOOK = {
    "aria": False,  # the page has a text alternative for each chart; one for each mark would make it twice as large
    "background": "white",
    "axis": {"gridColor": "#e4e4e4", "domainColor": "#888888", "tickColor": "#888888", "titleFontWeight": "normal"}
    | {"labelFontSize": 12, "titleFontSize": 12},
    "range": {"category": COLOURS},
    "mark": {"color": COLOURS[0]},
    "view": {"stroke": None},
    "legend": {"orient": "bottom", "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "title": {"fontSize": 14, "offset": 10},
}
LINES = {"symbolType": "stroke", "symbolSize": 500}  # in a legend, in place of circles
GREY_LINES = LINES | {"encode": {"symbols": {"update": {"stroke": {"value": "#888888"}}}}}


class Chart(NamedTuple):
    """A chart as dvc.yaml declares it: a template, and which columns of which table it shows."""

    table: str
    template: str
    x: str
    y: str | tuple[str, ...]
    title: str
    x_label: str = ""
    y_label: str = ""


CHARTS = {
    "class_counts": Chart("plots/stats/class_counts.csv", "counts", "images", "class", "Images by class"),
    "range_test": Chart(
        "plots/lr_find/curve.csv", "lr_curve", "lr", "smoothed_loss", "Learning rate range test",
        x_label="learning rate", y_label="loss",
    ),
    "loss": Chart(
        "plots/train/history.csv", "loss", "epoch", "val_loss", "Loss by epoch",
        y_label="cross entropy",
    ),
    "accuracy": Chart(
        "plots/train/history.csv", "epochs", "epoch", ("train_accuracy", "val_accuracy"), "Accuracy by epoch",
        y_label="accuracy",
    ),
    "learning_rate": Chart(
        "plots/train/schedule.csv", "schedule", "step", "lr", "Learning rate of every step", y_label="learning rate"
    ),
    "confusion": Chart("plots/evaluate/confusion.csv", "confusion_counts", "predicted", "actual", "Confusion matrix"),
    "class_accuracy": Chart("plots/evaluate/class_accuracy.csv", "bars", "accuracy", "class", "Accuracy by class"),
    "reliability": Chart(
        "plots/evaluate/reliability.csv", "reliability", "confidence", "accuracy", "Reliability diagram"
    ),
    "confused_pairs": Chart(
        "plots/misclassified/confused_pairs.csv", "count_bars", "images", "pair", "Classes most often confused"
    ),
}  # fmt: skip


def specification(chart: Chart, tables: Mapping[str, pd.DataFrame], runs: Sequence[str] = ()) -> dict[str, Any]:
    """The Vega-Lite specification of a chart of one run, or of several: `tables` maps their names to their tables.

    `runs` are the names of all runs that have a colour, in its order, if some of them have no such table.
    """
    columns = (chart.y,) if isinstance(chart.y, str) else chart.y
    rows, y = [], chart.y
    for run, table in tables.items():
        if isinstance(chart.y, str):
            rows += [row | {"rev": run} for row in table.to_dict("records")]
        else:  # a long table, as DVC makes one of several columns
            y = "value"
            for column in columns:
                long = table[[chart.x]].assign(value=table[column], rev=run, field=column, filename=chart.table)
                rows += long.to_dict("records")
    if not rows:  # for example no pair of classes that is confused
        nothing = {"mark": "text", "encoding": {"text": {"value": "none"}}}
        return {"data": {"values": [{}]}, "title": chart.title, "width": WIDTH, "height": 40, **nothing, "config": LOOK}
    renderer = VegaRenderer(
        rows, chart.table, template=chart.template, template_dir=str(TEMPLATES), x=chart.x, y=y, title=chart.title,
        x_label=chart.x_label or chart.x, y_label=chart.y_label or y, revs_with_datapoints=list(tables),
        anchors_y_definitions=[{"filename": chart.table, "field": column} for column in columns],
    )  # fmt: skip
    spec = renderer.get_filled_template()
    _recolour(spec, dict(zip(runs or tables, COLOURS, strict=False)))
    if isinstance(spec.get("height"), int):
        spec |= {"width": WIDTH, "height": HEIGHT}
    return spec | {"config": LOOK}


def draw(chart: Chart, tables: Mapping[str, pd.DataFrame], runs: Sequence[str] = ()) -> str:
    """The chart as SVG, in vl-convert's own font: the same bytes whatever fonts are installed.

    vl-convert counts the ids of all charts that it has drawn; here each chart counts its own.
    """
    svg = vl_convert.vegalite_to_svg(specification(chart, tables, runs), vl_version=VERSION)
    ids = {}
    return rename_ids(svg, lambda name: ids.setdefault(name, f"id{len(ids)}")) + "\n"


def rename_ids(svg: str, new_name: Callable[[str], str]) -> str:
    """The SVG with new names for its ids, where they are given and where they are used."""
    in_tag = re.compile(r'(?<=\bid=")[^"]+|(?<=url\(#)[^)]+')
    return re.sub("<[^<>]+>", lambda tag: in_tag.sub(lambda name: new_name(name[0]), tag[0]), svg)


def _recolour(node: Any, colours: Mapping[str, str]) -> None:
    """Give each run its colour; if there is only one run, leave its name out and colour its columns instead."""
    is_alone = len(colours) == 1
    if isinstance(node, list):
        for each in node:
            _recolour(each, colours)
    if not isinstance(node, dict):
        return
    colour, dash = node.get("color"), node.get("strokeDash")
    if isinstance(colour, dict) and colour.get("field") == "rev":
        colour["scale"]["range"] = [colours[run] for run in colour["scale"]["domain"]]
        colour["title"] = None
        if isinstance(dash, dict) and dash.get("field"):
            dash |= {"title": None, "legend": LINES if is_alone else GREY_LINES}
            if is_alone:
                colour |= {"field": dash["field"], "legend": LINES}
                colour["scale"] = {"domain": dash["scale"]["domain"], "range": COLOURS}
        elif is_alone:
            colour["legend"] = None
    facet = node.get("facet")
    if is_alone and isinstance(facet, dict):
        facet["column"]["header"] = None
    for each in node.values():
        _recolour(each, colours)
