"""The report: what it says and shows, in a browser too; its size; the same bytes everywhere."""

import base64
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vl_convert
from browser import CHROMIUM, browser
from damage import FUZZ, damaged
from PIL import Image
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from cifar.config.params import read_yaml
from cifar.data.splits import Split
from cifar.results import words
from cifar.results.heatmaps import Heatmaps, load_heatmaps, save_heatmaps, shown_mistakes
from cifar.results.predictions import Predictions, find_mistakes
from cifar.results.report import Pictures, render
from cifar.results.scores import expected_calibration_error, reliability
from cifar.results.tiles import colour_bar, heatmap_sheet, image_sheet
from cifar.results.vega import draw
from cifar.results.written import CHARTS, Run, load_run
from cifar.system.files import write_csv, write_json, write_text
from cifar.system.process import InputError, one_line

ROOT = Path(__file__).parents[1]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HOSTILE = [
    "<img src=x onerror=\"console.error('harm')\">",
    "</script><script>console.error('harm')</script>",
    '" onmouseover="console.error(1)',
    "</style><b>bold</b>",
    "{{ 7 * 7 }}",
    "a & b",
    "very_long_" * 12,
    "NA",
    "‮right to left",
    "</svg><circle r=9>",
]
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: `apt-get install chromium`")


def make(classes: list[str] = CLASSES, *, tests: int = 200, accuracy: float = 0.7) -> tuple:
    """The arguments of `render`: a run with these classes, drawn at random, of which a share is right."""
    random, count = np.random.default_rng(0), len(classes)
    labels = (np.arange(tests) % count).astype(np.uint8 if count <= 256 else np.uint16)
    logits = random.normal(size=(tests, count)).astype(np.float32)
    is_right = random.random(tests) < accuracy
    logits[is_right, labels[is_right]] += 6
    predictions = Predictions(logits, labels, logits.argmax(axis=1).astype(np.uint8))
    images = random.integers(0, 256, (tests, 32, 32, 3), dtype=np.uint8)
    mistakes = find_mistakes(predictions)[: shown_mistakes((32, 32))]
    y, x = np.mgrid[:32, :32]
    one = 8 * np.minimum(x, 31 - y)
    maps = np.array([np.roll(one, index % 32, axis=1) for index in mistakes], np.uint8).reshape(-1, 32, 32)
    train = Split(images[: 20 * count], labels[: 20 * count])
    pictures = Pictures(
        train, train.take(np.arange(20)), images[:20], Split(images, labels), Heatmaps(mistakes, maps, maps)
    )

    names, wrong = np.array(classes), int((predictions.predicted != labels).sum())
    scores = {"accuracy": 1 - wrong / tests, "loss": 0.9, "wrong": wrong, "images": tests}
    scores["expected_calibration_error"] = expected_calibration_error(logits, labels, bins=15)
    epochs = np.arange(1, 4)
    history = {"epoch": epochs, "train_loss": 2 / epochs, "train_accuracy": 1 - 0.5 / epochs, "val_loss": 2.1 / epochs}
    history |= {"val_accuracy": 1 - 0.6 / epochs, "lr": 0.1 / epochs}
    splits = [{"class": name, "split": split, "images": 20} for split in ("train", "test") for name in classes]
    curve = {"lr": np.logspace(-4, 0, 20), "loss": np.linspace(2, 1, 20), "smoothed_loss": np.linspace(2, 1, 20)}
    tables = {
        "plots/stats/class_counts.csv": pd.DataFrame(splits),
        "plots/lr_find/curve.csv": pd.DataFrame(curve | {"suggestion": [""] * 19 + ["lr_max"]}),
        "plots/train/history.csv": pd.DataFrame(history),
        "plots/train/schedule.csv": pd.DataFrame({"step": np.arange(9), "lr": np.linspace(0.1, 0, 9)}),
        "plots/evaluate/confusion.csv": pd.DataFrame(
            {"actual": names[labels], "predicted": names[predictions.predicted]}
        ),
        "plots/evaluate/class_accuracy.csv": pd.DataFrame(
            {
                "class": names,
                "accuracy": [float((predictions.predicted == labels)[labels == k].mean()) for k in range(count)],
            }
        ),
        "plots/evaluate/reliability.csv": pd.DataFrame(reliability(logits, labels, bins=15)),
        "plots/misclassified/confused_pairs.csv": pairs(predictions, classes),
    }
    twins = {"test_index": [3, 5], "train_index": [7, 0], "bits": [0, 9], "exact": [1, 0]}
    twins |= {"test_label": [classes[3 % count], classes[5 % count]], "train_label": [classes[0], classes[0]]}
    tables["data/duplicates.csv"] = pd.DataFrame(twins)
    channels = {"red": 0.4914, "green": 0.4822, "blue": 0.4465}
    train_scores = {"epoch": 3, "train_accuracy": 0.83, "val_accuracy": 0.8, "train_images": 20 * count}
    metrics = {
        "stats": {"images": 20 * count, "test_images": tests, "mean": channels, "std": channels},
        "duplicates": {"duplicate_pairs": 2, "test_duplicates": 2, "exact_duplicates": 1},
        "lr_find": {"lr_max": 0.385, "steps": 20},
        "train": train_scores | {"val_images": 50, "lr_max": 0.4, "lr_min": 0.01, "parameters": 6_574_090},
        "evaluate": scores,
    }
    card = {"classes": classes, "network": {"name": "custom_resnet"}, "environment": {"torch": "2.14.1", "threads": 2}}
    return (
        Run(metrics, tables, card, "Layer  Param #\nlinear 10"),
        read_yaml(ROOT / "params.yaml"),
        predictions,
        pictures,
    )


def pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """The table of the classes most often confused."""
    wrong = predictions.labels != predictions.predicted
    table = pd.DataFrame({"actual": predictions.labels[wrong], "predicted": predictions.predicted[wrong]})
    counts = table.groupby(["actual", "predicted"]).size().sort_values(ascending=False, kind="stable").head(10)
    of = np.bincount(predictions.labels)
    rows = [
        (f"{classes[a]} as {classes[b]}", classes[a], classes[b], images, of[a]) for (a, b), images in counts.items()
    ]
    return pd.DataFrame(rows, columns=["pair", "actual", "predicted", "images", "of"])


def page_of(run: Run, *arguments) -> str:
    charts = {name: draw(chart, {"workspace": run.tables[chart.table]}) for name, chart in CHARTS.items()}
    return render(run, *arguments, charts=charts)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """The templates of charts are found from there."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def made() -> tuple:
    return make()


@pytest.fixture(scope="module")
def page(made, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        path = tmp_path_factory.mktemp("report") / "index.html"
        path.write_text(page_of(*made), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab():
    with browser() as tab:
        yield tab


# What it says


def test_the_sentences_say_the_figures():
    metrics = {"wrong": 613, "images": 10_000, "accuracy": 0.9387}
    assert words.result(metrics).replace("\u00a0", " ") == (
        "The network classifies 9,387 of 10,000 test images correctly, an accuracy of 93.87 %. "
        "The 95 % confidence interval, for other images of the same kind, is 93.38 % to 94.32 %."  # Wilson, by hand
    )
    by_class = pd.DataFrame({"class": ["cat", "dog", "ship"], "accuracy": [0.5, 1.0, 0.75]})
    assert words.weakest(by_class).replace("\u00a0", " ") == "Lowest accuracy by class: cat (50.0 %) and ship (75.0 %)."
    assert words.weakest(by_class.tail(1)) == "Lowest accuracy by class: ship (75.0\u00a0%)."
    assert words.weakest(pd.DataFrame({"class": ["cat"], "accuracy": [1.0]})) == ""
    table = pd.DataFrame([{"pair": "", "actual": "dog", "predicted": "cat", "images": 64, "of": 1000}])
    assert words.most_confused(table) == "Most frequent mistakes: dog predicted as cat (64 of 1,000)."


def test_two_mistakes_of_which_one_is_left_out_are_said_to_be():
    logits = np.array([[9, 0], [0, 0.1], [0, 5]], np.float32)
    predictions = Predictions(logits, np.array([1, 0, 1], np.uint8), np.array([0, 1, 1], np.uint8))
    assert words.mistakes(predictions, shown=1).replace("\u00a0", " ") == (
        "The network makes 2 mistakes, 1 of them with a confidence above 90 %. "
        "This page shows the 1 most confident; the other 1 are left out to keep the page small."
    )
    nothing = Predictions(logits, predictions.predicted, predictions.predicted)
    assert words.mistakes(nothing, shown=0) == "The network makes no mistake on the test images."


def test_the_reliability_diagram_agrees_with_scikit_learn_and_with_the_calibration_error():
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(3000, 10)).astype(np.float32), random.integers(0, 10, 3000).astype(np.uint8)
    found = reliability(logits, labels, bins=15)
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    right, sure = calibration_curve(logits.argmax(axis=1) == labels, probabilities.max(axis=1), n_bins=15)
    assert found["accuracy"] == pytest.approx(right) and found["confidence"] == pytest.approx(sure, abs=1e-6)
    gap = (np.abs(found["accuracy"] - found["confidence"]) * found["images"]).sum() / 3000
    assert gap == pytest.approx(expected_calibration_error(logits, labels, bins=15), abs=1e-6)


def test_charts_are_those_that_dvc_draws():
    declared = read_yaml(ROOT / "dvc.yaml")
    plots = [plot for stage in declared["stages"].values() for plot in stage.get("plots", []) if isinstance(plot, dict)]
    of_dvc = {
        (path, plot.get("template"), plot.get("x"), plot.get("y"), plot.get("title"))
        for each in plots
        for path, plot in each.items()
    }
    for each in declared["plots"]:
        for title, plot in each.items():
            ((path, columns),) = plot["y"].items()
            of_dvc.add((path, plot["template"], plot["x"], tuple(columns), title))
    assert {(chart.table, *chart[1:5]) for chart in CHARTS.values()} == {plot for plot in of_dvc if plot[1]}


# What it shows


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_the_tiles_of_a_sheet_are_the_images():
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 6, 3), dtype=np.uint8)
    sheet = image_sheet(images)
    pixels = np.asarray(decoded(sheet.uri))
    assert pixels.shape == (3 * 4, 25 * 6, 3) and sheet.side == 96
    for number in (0, 24, 25, 59):
        x, y = sheet.place(number)
        np.testing.assert_array_equal(pixels[4 * y : 4 * y + 4, 6 * x : 6 * x + 6], images[number])
    assert image_sheet(images[:0]).rows == 1  # a run without mistakes


def test_heatmaps_have_the_colours_of_the_bar():
    sheet = heatmap_sheet(np.array([[[0, 255]]], np.uint8))
    colours = ["#{:02x}{:02x}{:02x}".format(*decoded(sheet.uri).convert("RGB").getpixel((x, 0))) for x in (0, 1)]
    assert colours == [colour_bar()[0], colour_bar()[-1]] == ["#000004", "#fcffa4"]  # the ends of inferno as published


def test_heatmaps_are_read_as_they_were_written_and_others_refused(made, tmp_path):
    predictions, heatmaps = made[2], made[3].heatmaps
    save_heatmaps(heatmaps, tmp_path / "maps.npz")
    for found, expected in zip(load_heatmaps(predictions, (32, 32), tmp_path / "maps.npz"), heatmaps, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="does not fit the test images"):
        load_heatmaps(predictions, (16, 16), tmp_path / "maps.npz")
    right = Predictions(predictions.logits, predictions.predicted, predictions.predicted)
    with pytest.raises(InputError, match="belongs to other predictions"):
        load_heatmaps(right, (32, 32), tmp_path / "maps.npz")


def test_a_hundred_classes_and_ten_thousand_images_of_noise_stay_under_six_megabytes():
    made = make([f"class {k}" for k in range(100)], tests=10_000, accuracy=0.5)
    text = page_of(*made)
    assert len(text.encode()) < 6_000_000
    wrong = made[0].metrics["evaluate"]["wrong"]
    assert f"This page shows the 650 most confident; the other {wrong - 650:,} are left out" in text
    assert text.count('<figure data-true="') == 650


def test_three_hundred_classes_of_large_images_of_noise_do_too():
    run, params, _, pictures = make([f"class {k}" for k in range(300)], tests=6000)
    random, labels = np.random.default_rng(0), (np.arange(1500) % 300).astype(np.uint16)
    logits = random.normal(size=(1500, 300)).astype(np.float32)
    logits[np.arange(1500), labels] += 2.5
    predictions = Predictions(logits, labels, logits.argmax(axis=1).astype(np.uint16))
    images = random.integers(0, 256, (1500, 96, 96, 3), dtype=np.uint8)
    mistakes = find_mistakes(predictions)[: shown_mistakes((96, 96))]
    maps = np.tile(np.arange(96, dtype=np.uint8), (len(mistakes), 96, 1))
    train = Split(images[:900], labels[:900])
    pictures = Pictures(
        train, train.take(np.arange(20)), images[:20], Split(images, labels), Heatmaps(mistakes, maps, maps)
    )
    text = page_of(run, params, predictions, pictures)
    assert len(text.encode()) < 6_000_000
    assert "These are the 100 classes with the most mistakes, of 300." in text
    counts = np.zeros((300, 300), int)
    np.add.at(counts, (labels, predictions.predicted), 1)
    for true, predicted, images in re.findall(r'data-cell="(\d+) (\d+)"[^>]*>(\d+)<', text):
        assert counts[int(true), int(predicted)] == int(images) > 0
    sides = [int(side) for side in re.findall(r"--side:(\d+)px", text)]
    assert sides == [64, 96, 96, 96, 96]  # samples are made smaller


def test_the_labels_in_doubt_are_those_that_the_network_finds_least_likely(made, page):
    _, _, predictions, _ = made
    own = softmax(predictions.logits.astype(float), axis=1)[np.arange(200), predictions.labels]
    wrong = predictions.predicted != predictions.labels
    expected = [index for index in np.argsort(own, kind="stable").tolist() if wrong[index]]
    (section,) = re.findall(r'<section id="labels">(.*?)</section>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert [int(index) for index in re.findall(r'aria-label="Test image (\d+)"', section)] == expected[:50]
    whole = f"This page shows the 50 most doubtful of {len(expected)} labels; "
    assert (whole if len(expected) > 50 else "This page shows all of them, the most doubtful first.") in section
    first = expected[0]
    said = f"<b>{CLASSES[predictions.labels[first]]}</b> {100 * own[first]:.1f}\u00a0%"
    assert section.index(said) < section.index(f"{CLASSES[predictions.predicted[first]]}</b>")


def test_pairs_of_a_test_and_a_training_image_are_shown_side_by_side(made):
    run, params, predictions, pictures = made
    scores = run.metrics["evaluate"] | {"accuracy_without_duplicates": 0.5}
    text = page_of(run._replace(metrics=run.metrics | {"evaluate": scores}), params, predictions, pictures)
    said = "2 test images are nearly the same as a training image, 1 exactly. Without them, the accuracy is 50.00 %."
    assert said in text.replace("\u00a0", " ")
    sheet = np.asarray(decoded(re.search(r"\.twins \.image.*?url\((data:[^)]*)\)", text)[1]))
    tiles = [pictures.test.images[3], pictures.train.images[7], pictures.test.images[5], pictures.train.images[0]]
    np.testing.assert_array_equal(sheet, np.concatenate(tiles, axis=1))
    other = pictures._replace(train=pictures.train.take(np.arange(7)))
    with pytest.raises(InputError, match="data/duplicates.csv is of other images; run `dvc repro stats`"):
        page_of(run, params, predictions, other)
    none = run.tables | {"data/duplicates.csv": run.tables["data/duplicates.csv"].head(0)}
    nothing = {"duplicate_pairs": 0, "test_duplicates": 0, "exact_duplicates": 0}
    text = page_of(run._replace(tables=none, metrics=run.metrics | {"duplicates": nothing}), *made[1:])
    assert "<h3>Duplicates</h3>" not in text


def write_run(run: Run, folder: Path) -> None:
    """The files that `load_run` reads."""
    for stage, values in run.metrics.items():
        write_json(folder / f"metrics/{stage}.json", values)
    for path, table in run.tables.items():
        write_csv(folder / path, table)
    write_json(folder / "models/model.json", run.card)
    write_text(folder / "models/summary.txt", run.summary)


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


def test_a_class_without_test_images_has_no_accuracy_and_a_page(made, tmp_path):
    run = made[0]
    table = run.tables["plots/evaluate/class_accuracy.csv"].copy()
    table.loc[3, "accuracy"] = np.nan  # as evaluate writes it
    write_run(run._replace(tables=run.tables | {"plots/evaluate/class_accuracy.csv": table}), tmp_path)
    page = page_of(load_run(tmp_path), *made[1:])
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    others = run.tables["plots/evaluate/class_accuracy.csv"].drop(index=3)
    assert words.weakest(table) == words.weakest(others) and words.weakest(others) in page


def test_a_run_without_mistakes_has_a_page_too():
    text = page_of(*make(accuracy=1.0))
    assert "The network makes no mistake on the test images." in text
    assert 'data-cell="' not in text and 'id="labels"' not in text


# The same bytes everywhere

SCRIPT = """
import sys
from test_report import make, page_of
import hashlib
print(hashlib.md5(page_of(*make(tests=60)).encode()).hexdigest())
"""


def test_the_page_has_the_same_bytes_in_another_folder_and_without_the_fonts(tmp_path):
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    command = [sys.executable, "-c", SCRIPT]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def ask(*before: str) -> str:
        ended = subprocess.run([*before, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    (expected,) = {ask()}
    hide = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none /usr/share/fonts && exec "$@"',
        "sh",
    ]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this system does not let a test hide the fonts")
    assert ask(*hide) == expected


# In a browser

SHOWN = "[...document.querySelectorAll('.mistakes figure')].filter(each => !each.hidden)"


def assert_quiet(tab, path: Path) -> None:
    assert [url for url in tab.requests if not url.startswith("data:")] == [path.resolve().as_uri()]
    assert tab.errors == []


@needs_chromium
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_without_a_request_an_error_or_a_sideways_scroll(tab, page, width, dark):
    tab.show(page, width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") == width
    assert_quiet(tab, page)
    assert tab.value("document.querySelectorAll('.chart svg').length") == len(CHARTS) - 1  # the matrix is a table
    assert tab.value("[...document.querySelectorAll('[role=img]')].every(each => each.ariaLabel)")


@needs_chromium
def test_a_click_on_the_matrix_shows_the_images_of_that_cell(tab, made, page):
    _, _, predictions, _ = made
    true, predicted = map(int, find_pair(predictions))
    expected = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    tab.show(page, 1600)
    tab.value(f"document.querySelector('[data-cell=\"{true} {predicted}\"]').click()")
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


@needs_chromium
def test_mistakes_are_sorted_by_confidence_both_ways_and_more_are_shown_on_demand(tab, made, page):
    predictions = made[2]
    order = find_mistakes(predictions).tolist()
    shown = f"{SHOWN}.map(each => Number(each.querySelector('.image').ariaLabel.split(' ').pop()))"
    tab.show(page, 1600)
    assert tab.value(shown) == order[:24]
    tab.value("document.querySelector('.more').click()")
    assert tab.value(shown) == order[:48]
    tab.value(
        "const list = document.querySelector('[name=order]'); list.value = 'unsure';"
        "list.form.dispatchEvent(new Event('change'))"
    )
    assert tab.value(shown) == order[::-1][:24]


@needs_chromium
def test_without_javascript_it_shows_all_mistakes_and_no_dead_control(tab, made, page):
    tab.show(page, 1600, script=False)
    count = len(made[3].heatmaps.indices)
    tree = tab.call("DOM.getDocument", depth=-1)
    root = tree["root"]["nodeId"]
    assert (
        len(tab.call("DOM.querySelectorAll", nodeId=root, selector=".mistakes figure:not([hidden])")["nodeIds"])
        == count
    )
    assert len(tab.call("DOM.querySelectorAll", nodeId=root, selector="form[hidden], .more[hidden]")["nodeIds"]) == 2
    assert_quiet(tab, page)


@needs_chromium
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
    from cifar.results.vega import specification

    chart = CHARTS[name]
    return specification(chart, {"workspace": make(tests=60)[0].tables[chart.table]})


def test_dvcs_page_is_what_make_page_writes():
    ended = subprocess.run(
        [sys.executable, "-c", "import runpy; print(runpy.run_path('.dvc/page.py')['page'](), end='')"],
        capture_output=True, text=True, encoding="utf-8", env={"PYTHONIOENCODING": "utf-8", "PATH": "/usr/bin"},
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
