"""The page on which `dvc plots` draws: without a network, up to date, with all licences."""

import json
import runpy
import subprocess
import sys

import vl_convert
from browser import assert_quiet, needs_chromium
from runs import ROOT, make

from cifar.results.vega import CHARTS, specification


@needs_chromium
def test_dvcs_own_page_is_drawn_without_a_network(tab, tmp_path):
    plots = {name: draw_spec(name) for name in ("confusion", "loss", "reliability")}
    divs = "".join(
        f"<div id='{name}'></div><script>vegaEmbed('#{name}', {json.dumps(spec)})</script>"
        for name, spec in plots.items()
    )
    template = (ROOT / ".dvc/page.html").read_text(encoding="utf-8")
    path = tmp_path / "index.html"
    path.write_text(template.replace("{plot_divs}", divs).replace("{refresh_tag}", ""), encoding="utf-8")
    tab.show(path, 1200)
    drawn = "document.querySelectorAll('.vega-embed canvas, .vega-embed svg.marks').length"
    assert (
        tab.value(
            f"new Promise(done => {{ const wait = () => {drawn} == 3 ? done(3) : setTimeout(wait, 50); wait() }})"
        )
        == 3
    )
    assert_quiet(tab, path)


def draw_spec(name: str) -> dict:
    chart = CHARTS[name]
    return specification(chart, {"workspace": make(tests=60)[0].tables[chart.table]})


def test_dvcs_page_is_what_make_page_writes():
    ended = subprocess.run(
        [sys.executable, "-c", "import runpy; print(runpy.run_path('.dvc/page.py')['page'](), end='')"],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert ended.stdout == (ROOT / ".dvc/page.html").read_text(encoding="utf-8"), "run `make page`"
    assert "{plot_divs}" in ended.stdout and "{scripts}" not in ended.stdout
    assert (ROOT / ".dvc/page.html").stat().st_size < 1_000_000


def test_dvcs_page_has_the_licences_of_all_packages_that_vl_convert_holds():
    script = runpy.run_path(str(ROOT / ".dvc/page.py"))
    held, listed = script["held_packages"](), script["listed_packages"]()
    assert {
        "vega": vl_convert.get_vega_version(),
        "vega-embed": vl_convert.get_vega_embed_version(),
    }.items() <= held.items()
    assert held.items() <= listed.items(), "run `make page`"
    assert listed.keys() - held.keys() == {"fast-json-patch", "semver"}  # copied into vega-embed's own file
    licences = script["LICENCES"].read_text(encoding="utf-8")
    assert licences in (ROOT / ".dvc/page.html").read_text(encoding="utf-8") and "-->" not in licences
    assert "Copyright (c) 2015-2023, University of Washington Interactive Data Lab" in licences
