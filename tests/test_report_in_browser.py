"""The report in a browser: no request, no error, no sideways scroll; the matrix, the order and the filters."""

from pathlib import Path

import numpy as np
import pytest
from browser import assert_quiet, needs_chromium
from runs import HOSTILE, ROOT, make, page_of

from cifar.results.predictions import Predictions, find_mistakes
from cifar.results.vega import CHARTS

pytestmark = [needs_chromium, pytest.mark.usefixtures("at_the_root")]

SHOWN = "[...document.querySelectorAll('.mistakes figure')].filter(each => each.checkVisibility())"


@pytest.fixture(scope="module")
def page(made, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = tmp_path_factory.mktemp("report") / "index.html"
        path.write_text(page_of(*made), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_a_request_an_error_or_a_sideways_scroll(tab, page, width, dark):
    tab.show(page, width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") == width
    assert_quiet(tab, page)
    assert tab.value("document.querySelectorAll('.chart svg').length") == len(CHARTS) - 1  # the matrix is a table
    assert tab.value("[...document.querySelectorAll('[role=img]')].every(each => each.ariaLabel)")


def test_it_follows_the_browsers_colours_and_prints_without_what_cannot_be_clicked(tab, page):
    def light(name: str) -> float:
        return tab.value(f"Math.max(...getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number))")

    tab.show(page, 1600, dark=True)
    assert light("backgroundColor") < 60 and light("color") > 200
    tab.show(page, 1600)
    assert light("color") < 60
    assert tab.value("document.querySelector('nav').checkVisibility()")
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert not tab.value("document.querySelector('nav').checkVisibility()")
    tab.call("Emulation.setEmulatedMedia", media="")


def test_a_click_on_the_matrix_shows_the_images_of_that_cell(tab, made, page):
    _, _, predictions, _ = made
    true, predicted = map(int, find_pair(predictions))
    expected = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    tab.show(page, 1600)
    tab.value(f"document.querySelector('[data-cell=\"{true} {predicted}\"]').click()")
    assert tab.value("document.activeElement.id") == "mistakes"
    found = tab.value(f"{SHOWN}.map(each => each.querySelector('.image').ariaLabel)")
    assert sorted(int(label.split()[-1]) for label in found) == expected.tolist()
    assert tab.value("document.querySelector('output').value") == f"{len(expected)} of {len(expected)} mistakes"
    assert tab.value("document.querySelectorAll('[aria-pressed=true]').length") == 1
    tab.value("document.querySelector('[type=reset]').click()")
    assert tab.value(f"new Promise(done => setTimeout(() => done({SHOWN}.length), 50))") == 24
    assert_quiet(tab, page)


def find_pair(predictions: Predictions) -> tuple[int, int]:
    counts = np.zeros((10, 10), int)
    wrong = predictions.labels != predictions.predicted
    np.add.at(counts, (predictions.labels[wrong], predictions.predicted[wrong]), 1)
    return np.unravel_index(counts.argmax(), counts.shape)


def test_mistakes_are_sorted_by_confidence_both_ways_and_more_are_shown_on_demand(tab, made, page):
    predictions = made[2]
    order = find_mistakes(predictions).tolist()
    shown = f"{SHOWN}.map(each => Number(each.querySelector('.image').ariaLabel.split(' ').pop()))"
    tab.show(page, 1600)
    assert tab.value(shown) == order[:24]
    tab.value("const more = document.querySelector('.more'); more.focus(); more.click()")
    assert tab.value(shown) == order[:48]
    tab.value("while (!more.hidden) more.click()")
    assert tab.value("document.activeElement.id") == "mistakes"  # not lost with the last button
    tab.value(
        "const list = document.querySelector('[name=order]'); list.value = 'unsure';"
        "list.form.dispatchEvent(new Event('change'))"
    )
    assert tab.value(shown) == order[::-1][:24]


def test_without_javascript_it_shows_all_mistakes_and_no_dead_control(tab, made, page):
    tab.show(page, 1600, script=False)
    count = len(made[3].heatmaps.indices)
    tree = tab.call("DOM.getDocument", depth=-1)
    root = tree["root"]["nodeId"]
    assert (
        len(tab.call("DOM.querySelectorAll", nodeId=root, selector=".mistakes figure:not([hidden])")["nodeIds"])
        == count
    )
    enabled = tab.call("DOM.querySelectorAll", nodeId=root, selector=".matrix button:not([disabled])")
    assert enabled["nodeIds"] == []
    controls = tab.call("DOM.querySelectorAll", nodeId=root, selector="form, .more, .needs-script")["nodeIds"]
    assert len(controls) == 3
    for node in controls:
        with pytest.raises(AssertionError, match="Could not compute box model"):  # it takes no place
            tab.call("DOM.getBoxModel", nodeId=node)
    assert_quiet(tab, page)


def test_class_names_that_are_html_do_no_harm(tab, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page_of(*make(HOSTILE)), encoding="utf-8")
    for width in (400, 1600):
        tab.show(path, width)
        assert_quiet(tab, path)
        assert tab.value("document.documentElement.scrollWidth") == width
    assert tab.value("document.querySelectorAll('img, script:not(:last-of-type), b > b').length") == 0
    names = tab.value("[...document.querySelectorAll('.matrix tbody th')].map(each => each.textContent)")
    assert names[0][:20] == HOSTILE[0][:20] and names[4:6] == HOSTILE[4:6]
