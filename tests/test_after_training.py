"""The stages after training, on a few images of noise and an untrained network: they write what they promise."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pixels import place_of, read_png
from ruamel.yaml import YAML
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score
from specs import AIRNET, CIFAR, changed

from cifar.config.params import read_yaml
from cifar.data.splits import Split, Statistics, load_split, save_classes, save_split
from cifar.nn.inference import normalise, predict
from cifar.nn.networks import build_network
from cifar.nn.saved import Model, load_model, save_model
from cifar.results.gradcam import heatmaps, overlay
from cifar.results.predictions import Predictions, save_predictions
from cifar.system.errors import InputError
from stages import evaluate, gradcam, misclassified

ROOT = Path(__file__).parents[1]
STATISTICS = Statistics((0.5,) * 3, (0.29,) * 3)
GREEN, RED = [26, 127, 55], [179, 38, 30]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def set_params(**changes) -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["gradcam"] |= changes.pop("gradcam", {})
    YAML().dump(values | changes, Path("params.yaml"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Path, Split, np.ndarray]:
    """A folder in which evaluate has run, its test images and their expected logits."""
    folder = tmp_path_factory.mktemp("project")
    for name in "dvc.yaml", "params.yaml":
        shutil.copy(ROOT / name, folder)
    random = np.random.default_rng(0)
    test = Split(random.integers(0, 256, (40, 32, 32, 3), np.uint8), (np.arange(40) % 10).astype(np.uint8))
    save_split("test", test, folder / "data/dataset")
    save_classes(CLASSES, folder / "data/dataset")
    (folder / "data/duplicates.csv").write_text("test_index,train_index\n")
    network = build_network(AIRNET, CIFAR, seed=0)
    save_model(Model(network, STATISTICS, CLASSES), AIRNET, {}, folder=folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
    return folder, test, predict(network, test.images, STATISTICS)


@pytest.fixture
def project(evaluated, tmp_path, monkeypatch) -> Path:
    """A copy of that folder, which is the working directory."""
    folder = Path(shutil.copytree(evaluated[0], tmp_path / "project"))
    monkeypatch.chdir(folder)
    set_params(gallery_size=7)
    return folder


def test_evaluate_writes_the_figures_of_scikit_learn(evaluated):
    folder, test, logits = evaluated
    figures = json.loads((folder / "metrics/evaluate.json").read_text())
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    predictions = logits.argmax(1)
    assert figures["accuracy"] == accuracy_score(test.labels, predictions)
    assert figures["top5_accuracy"] == top_k_accuracy_score(test.labels, logits, k=5)
    assert figures["loss"] == round(log_loss(test.labels, probabilities), 6)
    assert figures["wrong"] == np.count_nonzero(predictions != test.labels)
    assert figures["images"] == 40
    interval = binomtest(40 - figures["wrong"], 40).proportion_ci(0.95, "wilson")
    assert (figures["accuracy_low"], figures["accuracy_high"]) == (round(interval.low, 6), round(interval.high, 6))
    assert 0 <= figures["expected_calibration_error"] <= 1
    assert all(type(value) in (int, float) for value in figures.values())


def test_test_time_augmentation_adds_a_score_and_changes_nothing_else(project):
    air = changed(AIRNET, whitening_bias={"start": "random"})
    network, images = build_network(air, CIFAR, seed=0), load_split("test").images
    save_model(Model(network, STATISTICS, CLASSES), air, {})
    alone = predict(network, images, STATISTICS).argmax(1)
    labels = predict(network, images, STATISTICS, augmentation="flip_shift").argmax(1).astype(np.uint8)
    assert 0 < np.count_nonzero(alone == labels) < len(labels)
    save_split("test", Split(images, labels))  # so that the six views are right about all images
    set_params(test_time_augmentation="flip_shift")
    evaluate.main()
    figures = json.loads(Path("metrics/evaluate.json").read_text())
    assert (figures["tta_accuracy"], figures["accuracy"]) == (1.0, np.mean(alone == labels))
    with np.load("data/predictions.npz") as saved:
        assert np.array_equal(saved["predictions"], alone)


def test_the_accuracy_without_duplicates_is_that_of_the_other_images(project, evaluated):
    _, test, logits = evaluated
    is_right = logits.argmax(1) == test.labels
    duplicates = [*np.flatnonzero(is_right)[:1], *np.flatnonzero(~is_right)[:5]]
    Path("data/duplicates.csv").write_text("test_index\n" + "".join(f"{k}\n" for k in (*duplicates, duplicates[0])))
    evaluate.main()
    figures = json.loads(Path("metrics/evaluate.json").read_text())
    assert figures["accuracy_without_duplicates"] == np.delete(is_right, duplicates).mean()
    assert figures["accuracy"] == is_right.mean()


def test_evaluate_writes_tables_and_predictions(evaluated):
    folder, test, logits = evaluated
    confusion = pd.read_csv(folder / "plots/evaluate/confusion.csv")
    assert list(confusion) == ["actual", "predicted"]
    assert confusion.actual.tolist() == [CLASSES[label] for label in test.labels]
    assert confusion.predicted.tolist() == [CLASSES[k] for k in logits.argmax(1)]

    by_class = pd.read_csv(folder / "plots/evaluate/class_accuracy.csv")
    assert by_class["class"].tolist() == CLASSES
    hits = confusion.actual == confusion.predicted
    assert by_class.accuracy.tolist() == [hits[confusion.actual == name].mean() for name in CLASSES]

    with np.load(folder / "data/predictions.npz") as saved:
        assert saved["logits"].dtype == np.float32 and np.allclose(saved["logits"], logits, atol=1e-6)
        assert saved["labels"].dtype == np.uint8 and np.array_equal(saved["labels"], test.labels)
        assert saved["predictions"].dtype == np.uint8 and np.array_equal(saved["predictions"], logits.argmax(1))


def test_running_again_gives_the_same_bytes(project):
    outputs = [
        "data/predictions.npz",
        "data/misclassified.csv",
        "data/label_issues.csv",
        "metrics/evaluate.json",
        "plots/evaluate/confusion.csv",
    ]
    outputs += ["plots/misclassified/gallery.png", "plots/gradcam/misclassified.png", "plots/gradcam/correct.png"]
    outputs += ["plots/misclassified/label_issues.png"]
    runs = []
    for _ in range(2):
        for stage in (evaluate, misclassified, gradcam):
            stage.main()
        runs.append([Path(path).read_bytes() for path in outputs])
    assert runs[0] == runs[1]


def test_gallery_and_heatmaps_show_the_same_real_images_in_the_same_order(project, evaluated):
    _, test, logits = evaluated
    misclassified.main()
    gradcam.main()
    table = pd.read_csv("data/misclassified.csv")
    assert len(table) == np.count_nonzero(logits.argmax(1) != test.labels)
    assert table.confidence.is_monotonic_decreasing
    assert table.label_name.tolist() == [CLASSES[k] for k in table.label]
    assert table.predicted_name.tolist() == [CLASSES[k] for k in table.predicted]
    shown = table.groupby("label").head(1).sort_values("label")["index"].tolist()[:7]  # the first of each true class
    assert len(shown) == 7
    for sheet in "plots/misclassified/gallery.png", "plots/gradcam/misclassified.png":
        pixels = read_png(sheet)
        places = [place_of(test.images[index], pixels) for index in shown]
        assert places == sorted(places)  # row by row, from left to right
        with pytest.raises(AssertionError, match="not on the sheet"):
            place_of(test.images[next(index for index in table["index"] if index not in shown)], pixels)


def test_true_classes_are_green_and_wrong_predictions_red(project):
    misclassified.main()
    gradcam.main()
    for sheet in ("misclassified/gallery", "misclassified/correct", "gradcam/misclassified", "gradcam/correct"):
        pixels = read_png(f"plots/{sheet}.png")
        green, red = (np.flatnonzero((pixels == colour).all(axis=2).any(axis=1)) for colour in (GREEN, RED))
        assert len(green) and bool(len(red)) != sheet.endswith("correct"), sheet
        assert not len(red) or green[0] < red[0]  # the true class stands above the predicted one


def test_both_sheets_of_correct_predictions_show_the_same_images_in_the_same_order(project, evaluated):
    _, test, logits = evaluated
    misclassified.main()
    gradcam.main()
    correct = np.flatnonzero(logits.argmax(1) == test.labels)
    assert 0 < len(correct) <= 7
    orders = []
    for sheet in "plots/misclassified/correct.png", "plots/gradcam/correct.png":
        pixels = read_png(sheet)
        orders.append(sorted(correct, key=lambda index: place_of(test.images[index], pixels)))
    assert orders[0] == orders[1]


def test_the_sheet_of_doubtful_labels_shows_the_tables_first_images_in_its_order(project, evaluated):
    _, test, _ = evaluated
    misclassified.main()
    table = pd.read_csv("data/label_issues.csv")
    assert set(table["index"]) == set(pd.read_csv("data/misclassified.csv")["index"])
    assert table["label_probability"].is_monotonic_increasing
    pixels = read_png("plots/misclassified/label_issues.png")
    places = [place_of(test.images[index], pixels) for index in table["index"][:7]]
    assert places == sorted(places)


def test_the_most_confused_classes_are_those_of_scikit_learns_confusion_matrix(project, evaluated, capsys):
    _, test, logits = evaluated
    misclassified.main()
    counts = confusion_matrix(test.labels, logits.argmax(1), labels=range(10))
    table = pd.read_csv("plots/misclassified/confused_pairs.csv")
    assert table["images"].is_monotonic_decreasing and len(table) == min(
        10, np.count_nonzero(counts - np.diag(counts.diagonal()))
    )
    for row in table.itertuples():
        assert row.images == counts[CLASSES.index(row.actual), CLASSES.index(row.predicted)] and row.of == 4
        assert row.actual != row.predicted and row.pair == f"{row.actual} as {row.predicted}"
    left_out = np.sort((counts - np.diag(counts.diagonal())).ravel())[::-1][len(table) :]
    assert table["images"].min() >= left_out.max()
    first = table.iloc[0]
    assert f"{first.actual} predicted as {first.predicted}: {first.images} of 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("layers", [["layer3"], ["prep", "layer1", "layer2", "layer3"]])
def test_each_layer_has_a_heatmap_beside_the_image(project, evaluated, layers):
    _, test, _ = evaluated
    set_params(gallery_size=1, gradcam={"layers": layers})
    misclassified.main()
    gradcam.main()
    pixels = read_png("plots/gradcam/misclassified.png")
    first = pd.read_csv("data/misclassified.csv").sort_values("label", kind="stable")["index"].iloc[0]
    row, column = place_of(test.images[first], pixels)
    strip = pixels[row : row + 128, column:]
    is_blank = (strip == 255).all(axis=(0, 2))
    gaps = np.flatnonzero(is_blank[: 132 * len(layers)])
    assert gaps.tolist() == [132 * k + 128 + i for k in range(len(layers)) for i in range(4)]
    assert is_blank[132 * len(layers) + 128 :].all() and not is_blank[132 * len(layers) : 132 * len(layers) + 128].any()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize("target", ["predicted", "label"])
def test_the_heatmaps_are_of_the_method_and_the_classes_of_the_params(project, evaluated, method, target):
    _, test, logits = evaluated
    set_params(gallery_size=3, gradcam={"layers": ["layer1"], "method": method, "target": target})
    misclassified.main()
    gradcam.main()
    pixels = read_png("plots/gradcam/misclassified.png")
    network = load_model().network
    classes = {"predicted": logits.argmax(1), "label": test.labels}
    maps = {}
    for name, labels in classes.items():
        inputs = normalise(torch.from_numpy(test.images), STATISTICS)
        maps[name] = heatmaps(network, inputs, "layer1", torch.from_numpy(labels.astype(np.int64)), method=method)
    found = np.load("data/heatmaps.npz")
    for name, key in ("predicted", "predicted"), ("label", "true"):
        expected = 255 * maps[name][found["indices"]]
        assert np.abs(found[key] - expected).max() <= 1 and found[key].std() > 10
    table = pd.read_csv("data/misclassified.csv").groupby("label").head(1).sort_values("label")
    for index in table["index"][:3]:
        place_of(overlay(test.images[[index]], maps[target][[index]])[0], pixels)


@pytest.mark.parametrize("wrong", [0, 2])
def test_sheets_are_drawn_if_there_are_fewer_mistakes_than_gallery_size(project, evaluated, wrong):
    _, test, _ = evaluated
    predicted = test.labels.copy()
    predicted[:wrong] += 1
    logits = np.eye(10, dtype=np.float32)[predicted]
    save_predictions(Predictions(logits, test.labels, predicted))
    misclassified.main()
    gradcam.main()
    assert pd.read_csv("data/misclassified.csv")["index"].tolist() == list(range(wrong))
    for sheet in ("plots/misclassified/gallery.png", "plots/gradcam/misclassified.png"):
        pixels = read_png(sheet)
        assert not (pixels == 255).all()  # the title at least
        for index in range(wrong):
            place_of(test.images[index], pixels)


def test_an_empty_heatmap_leaves_the_image_grey_and_the_peak_is_bright():
    image = np.full((1, 2, 2, 3), 200, np.uint8)
    overlaid = overlay(image, np.array([[[0.0, 0.0], [0.0, 1.0]]], np.float32))
    assert np.abs(overlaid[0, 0, 0].astype(int) - 100).max() <= 2
    assert overlaid[0, 1, 1].min() > 170 and overlaid[0, 1, 1].argmin() == 2  # yellow: blue is its least


def test_evaluate_prints_the_accuracy_the_mistakes_and_the_weakest_classes(project, evaluated, capsys):
    evaluate.main()
    _, test, logits = evaluated
    hits = logits.argmax(1) == test.labels
    accuracies = {name: hits[test.labels == k].mean() for k, name in enumerate(CLASSES)}
    weakest = sorted(CLASSES, key=accuracies.get)[:3]  # of equal ones in the order of the classes
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"test accuracy {hits.mean():.4f}: {40 - hits.sum()} of 40 wrong; weakest classes: "
        + ", ".join(f"{name} {accuracies[name]:.3f}" for name in weakest)
    )
    tables = ("plots/evaluate/confusion.csv", "class_accuracy.csv", "reliability.csv")
    named = ("metrics/evaluate.json", "data/predictions.npz", *tables)
    assert second == f"written: {', '.join(named)}"


def test_a_flawless_model_has_no_weakest_classes():
    by_class = pd.DataFrame({"class": CLASSES, "accuracy": [1.0] * 10})
    scores = {"accuracy": 1.0, "wrong": 0, "images": 10_000, "tta_accuracy": 0.5}
    assert evaluate.result_line(scores, by_class) == (
        "test accuracy 1.0000: 0 of 10,000 wrong; 0.5000 with test-time augmentation"
    )


def test_a_class_without_test_images_is_not_among_the_weakest():
    by_class = pd.DataFrame({"class": CLASSES, "accuracy": [np.nan, 0.9387, 0.5] + [1.0] * 7})
    line = evaluate.result_line({"accuracy": 0.9387, "wrong": 613, "images": 10_000}, by_class)
    assert line == "test accuracy 0.9387: 613 of 10,000 wrong; weakest classes: bird 0.500, automobile 0.939"


def test_the_files_that_were_written_are_named(project, capsys):
    misclassified.main()
    gradcam.main()
    written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: ")]
    mistakes = len(pd.read_csv("data/misclassified.csv"))
    assert written == [
        f"written: data/misclassified.csv ({mistakes} mistakes), data/label_issues.csv, "
        "plots/misclassified/gallery.png, correct.png, label_issues.png, confused_pairs.csv",
        "written: data/heatmaps.npz, plots/gradcam/misclassified.png, correct.png",
    ]


def test_a_layer_that_the_model_on_disk_lacks_is_named(project):
    misclassified.main()
    values = read_yaml(ROOT / "params.yaml")
    resnet = {"name": "resnet18", "norm": "batch", "strides": [1, 2, 2, 2], "pool": 4}
    YAML().dump(values | {"model": resnet, "gradcam": values["gradcam"] | {"layers": ["layer4"]}}, Path("params.yaml"))
    with pytest.raises(
        InputError, match="layers names 'layer4', but the trained model has prep, layer1, layer2, layer3;"
    ):
        gradcam.main()


HOSTILE = ["$\\bad$", "$x^2$", "<b>red</b>", "x" * 40_000, "%s", "\u732b", "a  b", "_{}^", "'\"", "=1+1"]


def test_any_class_names_make_sheets_and_print_no_control_characters(project, capsys):
    save_classes(HOSTILE)
    card = json.loads(Path("models/model.json").read_text())
    Path("models/model.json").write_text(json.dumps(card | {"classes": HOSTILE}))
    for stage in (evaluate, misclassified, gradcam):
        stage.main()
    printed = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert max(map(len, printed.splitlines())) < 300
    assert pd.read_csv("data/misclassified.csv", keep_default_na=False).label_name.isin(HOSTILE).all()
    assert read_png("plots/misclassified/gallery.png").shape[1] < 3000


def test_misclassified_starts_without_torch_and_evaluate_without_matplotlib():
    for stage, package in (("misclassified", "torch"), ("evaluate", "matplotlib")):
        code = f"import sys, stages.{stage}; sys.exit('{package}' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0, (stage, package)
