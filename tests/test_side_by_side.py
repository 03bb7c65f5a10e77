"""Runs side by side: what the page says and shows, in a browser too; and from a real repository."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import assert_quiet, needs_chromium
from runs import CLASSES, HOSTILE, ROOT, decoded, make

from cifar.__main__ import main
from cifar.results.comparison import accuracy_difference, mcnemar
from cifar.results.predictions import Predictions
from cifar.results.revisions import find_commit
from cifar.results.scores import log_softmax
from cifar.results.side_by_side import (
    CURVES,
    MOST,
    OF_CLASSES,
    Pair,
    Side,
    compare_page,
    differences,
    verdict,
    write_page,
)
from cifar.results.vega import CHARTS, COLOURS
from cifar.system.errors import InputError

PAGE = Path("report/comparison.html")
pytestmark = pytest.mark.usefixtures("at_the_root")


def side(name: str, wrong: range, classes: list[str] = CLASSES, *, tests: int = 200) -> Side:
    """A run that takes the test images `wrong` for the next class, the higher the index the surer, and no other."""
    run, params, _, pictures = make(classes, tests=tests)
    labels = pictures.test.labels
    logits = np.full((tests, len(classes)), 0, np.float32)
    logits[np.arange(tests), labels] = 5
    indices = np.array(wrong, dtype=int)
    logits[indices, labels[indices]] = 0
    logits[indices, (labels[indices] + 1) % len(classes)] = 1 + 4 * indices / tests
    predictions = Predictions(logits, labels, logits.argmax(axis=1).astype(labels.dtype))
    scores = {"accuracy": 1 - len(wrong) / tests, "loss": float(-log_softmax(logits)[range(tests), labels].mean())}
    return Side(
        name,
        run.metrics["train"] | scores | {"wrong": len(wrong), "images": tests},
        params,
        run.card["environment"],
        {key: run.tables[CHARTS[key].table] for key in (*CURVES, *OF_CLASSES)},
        pictures.test,
        classes,
        predictions,
    )


@pytest.fixture(scope="module")
def sides() -> list[Side]:
    """Of 200 images old alone gets 5 right, new alone 30, and both miss 10."""
    return [side("old", range(40)), side("new", range(30, 45))]


@pytest.fixture(scope="module")
def page(sides, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = tmp_path_factory.mktemp("report") / "comparison.html"
        path.write_text(compare_page(sides), encoding="utf-8")
    return path


def cards(text: str) -> list[tuple[str, int]]:
    """Who is right and who is wrong, and the image, of each card in turn."""
    found = re.findall(r'<figure data-who="(.*?)".*?aria-label="Test image (\d+)"', text, re.DOTALL)
    return [(who, int(index)) for who, index in found]


def lines(text: str) -> set[int]:
    """The numbers of the colours in which lines are drawn."""
    drawn = re.findall(r'<path [^>]*stroke="(#\w+)"', text)
    return {number for number, colour in enumerate(COLOURS) if colour in drawn}


def test_it_says_which_network_is_better_and_shows_the_images_that_only_one_gets_right(page):
    text = page.read_text(encoding="utf-8")
    # by hand: middle 25 / 202, variance (36 / 202 - middle^2) / 202, half 1.96 * 0.02839
    assert "The network of new is better than that of old by 12.50 points (6.81 to 17.94)." in text
    assert "Of 200 test images, only old is right on 5, only new on 30 (McNemar&#39;s p 2.2e-05)." in text
    assert cards(text) == [("0-1", k) for k in range(44, 39, -1)] + [("1-0", k) for k in range(29, -1, -1)]
    assert text.count("old is right, new wrong: 5 images") == 1 and "new is right, old wrong: 30 images" in text
    for value in ("80.00", "92.50", "+12.50</b> <span>(+6.81 to +17.94)"):
        assert value in text.replace("\u00a0", " ")


def test_better_is_said_only_where_interval_and_p_value_agree(sides):
    # of 10,000 images: 20 against 9 have an interval above 0 and an exact p of 0.061, 22 against 9 one of 0.029
    for only_a, only_b, said in ((9, 20, "No difference"), (9, 22, "The network of new is better")):
        right_a, right_b = np.ones((2, 10_000), bool)
        right_a[:only_b], right_b[-only_a:] = False, False
        difference = accuracy_difference(right_a, right_b)
        assert difference.low > 0
        pair = Pair(1, mcnemar(right_a, right_b), difference, difference, difference)
        assert verdict(["old", "new"], pair, 10_000).startswith(said)


def test_its_tiles_are_the_images(sides, page):
    text = page.read_text(encoding="utf-8")
    pixels = np.asarray(decoded(re.search(r"data:image/png;base64,[\w+/=]+", text)[0]))
    places = re.findall(r'<figure data-who="[^>]*--x:(\d+);--y:(\d+)"', text)
    for (_, index), (x, y) in zip(cards(text), places, strict=True):
        tile = pixels[32 * int(y) : 32 * int(y) + 32, 32 * int(x) : 32 * int(x) + 32]
        np.testing.assert_array_equal(tile, sides[0].test.images[index])


def test_two_networks_that_cannot_be_told_apart_are_said_to_be(sides):
    text = compare_page([sides[0], side("twin", range(1, 41))])
    assert "No difference in accuracy can be seen between old and twin (" in text and "is better" not in text


def test_each_run_is_compared_with_the_first_and_has_its_colour(sides):
    third = side("third", range(150, 200))
    text = compare_page([*sides, third])
    assert text.count('<p class="lede">') == 2 and "than that of old" in text and "than that of new" not in text
    assert {who for who, _ in cards(text)} == {"0-1", "1-0", "0-2", "2-0"}
    assert lines(text) == {0, 1, 2}
    assert len(COLOURS) == MOST == 6


def test_runs_on_different_test_images_are_compared_by_their_figures_alone(sides):
    other = side("other", range(20))
    other = other._replace(test=other.test._replace(images=255 - other.test.images))
    text = compare_page([sides[0], other])
    assert "old and other were tested on different images." in text
    assert cards(text) == [] and "McNemar" not in text and "+10.00</b>" in text


def test_names_that_are_shortened_to_the_same_are_given_in_full(sides):
    names = [f"resnet18-layernorm-optimizer.beta1-{beta}-epochs-40-lr_max-0.01" for beta in (0.8, 0.9)]
    text = compare_page([a._replace(name=name) for a, name in zip(sides, names, strict=True)])
    assert f"<title>{' and '.join(names)} compared</title>" in text
    assert lines(text) == {0, 1}
    text = compare_page([sides[0]._replace(name=names[0]), sides[1]])
    assert "<title>resnet18-layernorm-o ... pochs-40-lr_max-0.01 and new compared</title>" in text


def test_a_run_without_a_table_does_not_shift_the_colours(sides):
    old = sides[1]._replace(tables={})
    for runs, colours in (([sides[0], old, side("third", range(20))], {0, 2}), ([old, sides[0]], {1})):
        assert lines(compare_page(runs)) == colours


def test_the_test_accuracy_of_a_run_without_validation_is_not_its_validation_accuracy(sides):
    without = [a._replace(params=a.params | {"val_size": 0}) for a in sides]
    assert "Validation accuracy" in compare_page([sides[0], without[1]])
    assert "Validation accuracy" not in compare_page(without)


def test_metrics_that_are_no_numbers_are_left_out(sides):
    """DVC allows a mapping, which a later version of the pipeline may write."""
    first, second = (side._replace(metrics=side.metrics | {"by_class": {"cat": k}}) for k, side in enumerate(sides))
    assert compare_page([first, second]) == compare_page(sides)


def test_accuracies_without_duplicates_differ_in_points(sides):
    scores = [
        a._replace(metrics=a.metrics | {"accuracy_without_duplicates": k})
        for a, k in zip(sides, (0.9374, 0.9412), strict=True)
    ]
    text = compare_page(scores).replace("\u00a0", " ")
    assert "Test accuracy without duplicates" in text and "94.12 %" in text and "+0.38</b>" in text


def test_only_what_differs_is_listed():
    a, b = {"loss": {"name": "nll"}, "epochs": 2, "augment": []}, {"loss": {"name": "nll", "x": 1}, "epochs": 3}
    assert differences([a, b]) == [("epochs", ["2", "3"]), ("augment", ["", "–"]), ("loss.x", ["–", "1"])]


def test_tables_that_an_older_revision_has_not_are_left_out(sides):
    old = sides[0]._replace(tables={})
    text = compare_page([old, sides[1]])
    assert text.count("<svg") == len(CURVES) + len(OF_CLASSES)
    assert '<section id="curves">' not in compare_page([old, sides[1]._replace(tables={})])


def test_it_stays_small_and_small_groups_are_whole():
    many = [side("a", range(5000), tests=10_000), side("b", range(4990, 9000), tests=10_000)]
    text = compare_page(many)
    shown = cards(text)
    assert len(text.encode()) < 4_000_000 and len(shown) == 650
    assert "650 of them are here" in text
    few = [side("a", range(5000), tests=10_000), side("b", range(4000, 5007), tests=10_000)]
    assert [who for who, _ in cards(compare_page(few))].count("0-1") == 7


# In a browser


@needs_chromium
@pytest.mark.parametrize("width", [400, 1600])
def test_it_opens_without_a_request_an_error_or_a_sideways_scroll(tab, page, width):
    tab.show(page, width)
    assert tab.value("document.documentElement.scrollWidth") == width
    assert tab.value("[...document.querySelectorAll('[role=img]')].every(each => each.ariaLabel)")
    assert_quiet(tab, page)


@needs_chromium
def test_the_lists_filter_the_images(tab, sides, page):
    tab.show(page, 1600)
    shown = "[...document.querySelectorAll('.filtered figure')].filter(each => each.checkVisibility())"
    assert tab.value(f"{shown}.length") == 24
    choose = "list.form.dispatchEvent(new Event('change'))"
    tab.value(f"var list = document.querySelector('[name=who]'); list.value = '0-1'; {choose}")
    labels = tab.value(f"{shown}.map(each => each.querySelector('.image').ariaLabel)")
    assert labels == [f"Test image {k}" for k in range(44, 39, -1)]
    assert tab.value("document.querySelector('output').value") == "5 of 5 images"
    true = int(sides[0].test.labels[42])
    tab.value(f"list = document.querySelector('[name=true]'); list.value = '{true}'; {choose}")
    assert tab.value(f"{shown}.map(each => each.querySelector('.image').ariaLabel)") == ["Test image 42"]
    assert_quiet(tab, page)


@needs_chromium
def test_names_that_are_html_do_no_harm(tab, tmp_path):
    path = tmp_path / "comparison.html"
    runs = [side(HOSTILE[0], range(20), HOSTILE), side("</script><b>", range(10, 30), HOSTILE)]
    path.write_text(compare_page(runs), encoding="utf-8")
    for width in (400, 1600):
        tab.show(path, width)
        assert_quiet(tab, path)
        assert tab.value("document.documentElement.scrollWidth") == width
    assert tab.value("document.querySelectorAll('img, script:not(:last-of-type), b > b').length") == 0


# From a real repository


@pytest.fixture
def repository(first_run, tmp_path, monkeypatch) -> Path:
    """A clone of the pipeline after its first run, with its cache; the current folder."""
    first, _ = first_run
    project = first.clone(tmp_path / "project")
    project.dvc("config", "--local", "cache.dir", str(first.folder / ".dvc/cache"))
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "GIT_CONFIG_GLOBAL"):
        monkeypatch.setenv(name, first.environment[name])
    monkeypatch.chdir(project.folder)
    return project.folder


def test_an_experiment_and_a_revision_come_from_git_and_the_cache(repository, first_run, capsys, monkeypatch):
    commit = find_commit("HEAD")
    first_run[0].call("git", "-C", str(repository), "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/try", commit)
    monkeypatch.setattr(sys, "argv", ["cifar", "report", "HEAD", "try"])
    main()
    assert capsys.readouterr().out.startswith("written: report/comparison.html (")
    text = PAGE.read_text(encoding="utf-8")
    metrics = json.loads(Path("metrics/evaluate.json").read_text())
    assert f"{100 * metrics['accuracy']:.2f}\u00a0%" in text
    assert "No difference in accuracy can be seen between HEAD and try" in text
    assert text.count("<svg") == len(CURVES) + len(OF_CLASSES)
    assert first_run[0].call("git", "-C", str(repository), "status", "--porcelain").stdout == ""  # Git ignores it


def test_one_run_is_set_beside_the_workspace(repository, first_run):
    first_run[0]._replace(folder=repository).dvc("checkout")
    write_page(["HEAD"], PAGE)
    text = PAGE.read_text(encoding="utf-8")
    assert "<title>HEAD and workspace compared</title>" in text
    assert "No difference in accuracy can be seen between HEAD and workspace" in text


def weights_of_another_training(lock: str) -> str:
    """dvc.lock as `dvc repro` leaves it when it is stopped after `train`: `evaluate` has read other weights."""
    before, train = lock.split("\n  train:\n")
    return f"{before}\n  train:\n" + re.sub(
        r"(models/model.safetensors\n.*\n +md5: )\w+", r"\g<1>" + 32 * "0", train, count=1
    )


@pytest.mark.parametrize(
    ("path", "change", "line"),
    [
        (
            "params.yaml",
            lambda text: text.replace("\nseed: 0", "\nseed: 1"),
            "params.yaml has changed since the run: seed; ",
        ),
        (
            "params.yaml",
            lambda text: re.sub(r"(\naugment:.*?\n)(\w)", r"\1- name: Transpose\n\2", text, count=1, flags=re.DOTALL),
            "params.yaml has changed since the run: augment.",
        ),
        (
            "metrics/train.json",
            lambda text: f"{text} ",
            "metrics/train.json is not of the run in dvc.lock; run `dvc repro`, or `git ",
        ),
        (
            "dvc.lock",  # cut off by a kill
            lambda text: text.partition("\n  evaluate:\n")[0] + "\n",
            "dvc.lock has no record of a whole run; run `make repro`",
        ),
        ("dvc.lock", lambda text: "stages:\n", "dvc.lock has no record of a whole run; run `make repro`"),
        ("dvc.lock", lambda text: "stages:\n  evaluate:\n", "dvc.lock has no record of a whole run; run `make repro`"),
        (
            "dvc.lock",
            weights_of_another_training,
            "`python -m stages.evaluate` has not run since models/model.safetensors changed; run ",
        ),
    ],
)
def test_a_workspace_that_is_not_of_one_run_is_refused(repository, first_run, path, change, line):
    first_run[0]._replace(folder=repository).dvc("checkout")
    before = Path(path).read_text()
    Path(path).write_text(change(before))
    assert Path(path).read_text() != before
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        write_page(["HEAD"], PAGE)


def test_what_is_missing_is_one_line_with_the_next_move(repository, first_run, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"^'nothing' is no experiment \(`dvc exp list -A`\) and no revision of Git$"):
        write_page(["nothing"], PAGE)
    with pytest.raises(InputError, match="^HEAD is given twice; "):
        write_page(["HEAD", "HEAD"], PAGE)
    with pytest.raises(InputError, match="^the workspace alone cannot be compared; name another run too$"):
        write_page(["workspace"], PAGE)
    with pytest.raises(InputError, match="^7 runs are too many for one page; give at most 6"):
        write_page([f"HEAD~{k}" for k in range(7)], PAGE)
    with pytest.raises(
        InputError, match="^HEAD~1 has no dvc.lock, and so no results; "
    ):  # the code before its first run
        write_page(["HEAD", "HEAD~1"], PAGE)

    project, cache = first_run[0], tmp_path / "empty"
    local = ["git", "-C", str(repository), "config", "--file", ".dvc/config.local"]
    project.call(*local, "cache.dir", str(cache))
    with pytest.raises(InputError, match="of HEAD is not in DVC's cache; no remote is set that could have it"):
        write_page(["HEAD"], PAGE)
    Path(".dvc/config.local").write_text(
        f"[core]\n    remote = store\n[cache]\n    dir = {cache}\n['remote \"store\"']\n    url = {tmp_path}/none\n"
    )
    with pytest.raises(InputError, match="`dvc fetch --all-commits` gets it from the remote$"):
        write_page(["HEAD"], PAGE)
    commit = find_commit("HEAD")
    project.call("git", "-C", str(repository), "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/try", commit)
    with pytest.raises(InputError, match="^'t[*]' is no experiment"):
        find_commit("t*")
    for name in "try", commit:  # the argument is Git's remote, not DVC's
        with pytest.raises(InputError, match="`dvc exp pull origin try` gets it from the remote$"):
            write_page([name, "HEAD~1"], PAGE)
    assert not PAGE.exists()

    # With a remote that has the files, nothing needs to be fetched first.
    shutil.copytree(project.folder / ".dvc/cache/files", tmp_path / "none/files")
    write_page(["HEAD", "HEAD^0"], PAGE)
    assert PAGE.exists()
