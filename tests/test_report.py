"""The report: what it says and shows, its size, and the same bytes everywhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import CLASSES, ROOT, decoded, make, page_of, write_run
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from cifar.config.params import read_yaml
from cifar.data.splits import Split
from cifar.results import words
from cifar.results.heatmaps import Heatmaps, load_heatmaps, save_heatmaps, shown_mistakes
from cifar.results.predictions import Predictions, find_mistakes
from cifar.results.report import Pictures
from cifar.results.scores import expected_calibration_error, reliability
from cifar.results.tiles import colour_bar, heatmap_sheet, image_sheet
from cifar.results.vega import CHARTS, rename_ids
from cifar.results.written import load_run
from cifar.system.errors import InputError

pytestmark = pytest.mark.usefixtures("at_the_root")

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
    assert words.weakest(pd.DataFrame({"class": ["cat", "dog"], "accuracy": [1.0, 2999 / 3000]})) == ""
    table = pd.DataFrame([{"pair": "", "actual": "dog", "predicted": "cat", "images": 64, "of": 1000}])
    assert words.most_confused(table) == "Most frequent mistakes: dog predicted as cat (64 of 1,000)."


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (0.76, "76.0 %, 14.0 points below the accuracy: the network is underconfident."),
        (0.95, "95.0 %, 5.0 points above the accuracy: the network is overconfident."),
        (0.9003, "90.0 %, the same as the accuracy."),
        (0.93, "93.0 %, 3.0 points above the accuracy, which is within the accuracy's 95 % interval."),  # to 94.48 %
        (0.946, "94.6 %, 4.6 points above the accuracy: the network is overconfident."),
    ],
)
def test_calibration_in_words(confidence, said):
    metrics = {"wrong": 10, "images": 100, "expected_calibration_error": 0.1}
    expected = f"The mean confidence is {said} The expected calibration error is 10.0 %."
    assert words.calibration(metrics, confidence).replace("\u00a0", " ") == expected


def test_without_validation_images_nothing_is_called_validation():
    run, params, *images = make(tests=60)
    assert "Validation accuracy" in (text := page_of(run, params, *images)) and "training and validation loss" in text
    text = page_of(run, params | {"val_size": 0}, *images)
    assert "Validation" not in text and "training and test loss" in text and ">test accuracy</th>" in text
    assert "val_accuracy and val_loss are measured on the test images" in text and "val accuracy" not in text


def test_the_training_accuracy_of_a_filter_is_said_to_be_that_of_the_hardest_images():
    run, _, *images = make(tests=60)
    text = page_of(run, read_yaml(ROOT / "recipes/best.yaml"), *images).replace("\u00a0", " ")
    assert "on the training images (measured on the hardest 50 % of each augmented batch during the epoch)" in text
    assert re.search(
        r"<dt>Training accuracy</dt><dd>[^<]*</dd><dd class=.note.>hardest images of each batch</dd>", text
    )


def test_two_mistakes_of_which_one_is_left_out_are_said_to_be():
    logits = np.array([[9, 0], [0, 0.1], [0, 5]], np.float32)
    predictions = Predictions(logits, np.array([1, 0, 1], np.uint8), np.array([0, 1, 1], np.uint8))
    assert words.mistakes(predictions, shown=1).replace("\u00a0", " ") == (
        "The network makes 2 mistakes, 1 of them with a confidence above 90 %. "
        "This page shows the 1 most confident; the others (1) are left out to keep the page small."
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


def test_ids_are_renamed_where_they_are_given_and_used_and_not_in_text():
    svg = '<clipPath id="clip"><path/></clipPath><g clip-path="url(#clip)"><text>id="clip" url(#clip)</text></g>'
    assert rename_ids(svg, str.upper) == (
        '<clipPath id="CLIP"><path/></clipPath><g clip-path="url(#CLIP)"><text>id="clip" url(#clip)</text></g>'
    )


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


def test_a_mistake_is_shown_with_its_image_its_probabilities_and_the_map_of_each_class(made):
    _, _, predictions, pictures = made
    text, maps = page_of(*made), pictures.heatmaps
    pixels = np.asarray(decoded(re.search(r"\.mistakes \.image.*?url\((data:[^)]*)\)", text)[1]))
    cards = re.findall(r'<figure data-true="(.*?)</figure>', text, re.DOTALL)
    assert len(cards) == len(maps.indices) > 24
    probabilities = softmax(predictions.logits.astype(float), axis=1)
    for card, index in zip(cards, maps.indices.tolist(), strict=True):
        x, y = map(int, re.search(r"--x:(\d+);--y:(\d+)", card).groups())
        np.testing.assert_array_equal(pixels[32 * y : 32 * y + 32, 32 * x : 32 * x + 32], pictures.test.images[index])
        classes = predictions.predicted[index], predictions.labels[index]
        shown = [f"{CLASSES[k]}</b> {100 * probabilities[index, k]:.1f}\u00a0%" for k in classes]
        assert card.index(shown[0]) < card.index(shown[1])
    for name, sheet in ("predicted", maps.predicted), ("true", maps.true):
        found = re.search(rf"\.mistakes \.{name}::after{{background-image:url\((data:[^)]*)\)", text)[1]
        assert found == heatmap_sheet(sheet).uri


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
    assert f"This page shows the 650 most confident; the others ({wrong - 650:,}) are left out" in text
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
        train, train.take(np.arange(20)), images[:20], Split(images, labels), Heatmaps(mistakes, maps, 255 - maps)
    )
    text = page_of(run, params, predictions, pictures)
    assert len(text.encode()) < 6_000_000
    assert "These are the 100 classes with the most mistakes, of 300." in text
    counts = np.zeros((300, 300), int)
    np.add.at(counts, (labels, predictions.predicted), 1)
    cells = re.findall(r'data-cell="(\d+) (\d+)"[^>]*>(\d+)<', text)
    found = {(int(true), int(predicted)): int(images) for true, predicted, images in cells}
    np.fill_diagonal(counts, 0)
    first = np.argsort(-(counts.sum(axis=0) + counts.sum(axis=1)), kind="stable")[:100].tolist()
    assert found == {(i, j): counts[i, j] for i in first for j in first if counts[i, j]} and len(found) > 100
    sides = [int(side) for side in re.findall(r"--side:(\d+)px", text)]
    assert sides == [64, 96, 96, 96, 96]  # samples are made smaller


def test_the_labels_in_doubt_are_those_that_the_network_finds_least_likely(made):
    _, _, predictions, _ = made
    own = softmax(predictions.logits.astype(float), axis=1)[np.arange(200), predictions.labels]
    wrong = predictions.predicted != predictions.labels
    expected = [index for index in np.argsort(own, kind="stable").tolist() if wrong[index]]
    (section,) = re.findall(r'<section id="labels">(.*?)</section>', page_of(*made), re.DOTALL)
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
    assert 'data-cell="' not in text and 'id="labels"' not in text and "Click a number" not in text


# The same bytes everywhere

SCRIPT = """
import sys
from runs import make, page_of
import hashlib
print(hashlib.md5(page_of(*make(tests=60)).encode()).hexdigest())
"""


def test_the_page_has_the_same_bytes_in_another_folder_and_without_the_fonts(tmp_path):
    here, elsewhere = tmp_path / "here", tmp_path / "else where"
    for folder in here, elsewhere:
        shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
        shutil.copy(ROOT / "params.yaml", folder)
    command = [sys.executable, "-c", SCRIPT]

    def ask(*before: str, folder: Path = here) -> str:
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
        ended = subprocess.run([*before, *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    expected = ask()
    assert ask(folder=elsewhere) == expected
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
