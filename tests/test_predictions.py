"""Predictions and mistakes: files are loaded whole or refused, and the order is the promised one."""

import zipfile

import numpy as np
import pytest

from cifar.results.predictions import (
    Predictions,
    find_correct,
    find_mistakes,
    load_mistakes,
    load_predictions,
    save_mistakes,
    save_predictions,
    spread_over_classes,
)
from cifar.system.errors import InputError

CLASSES = [f"class{k}" for k in range(10)]


def predict_with(confidences: list[float], predicted: list[int], labels: list[int]) -> Predictions:
    """Predictions whose softmax gives the predicted class its confidence, and the other nine classes equal shares."""
    logits = np.repeat(np.log((1 - np.array(confidences)) / 9)[:, None], 10, axis=1)
    logits[np.arange(len(predicted)), predicted] = np.log(confidences)
    return Predictions(logits.astype(np.float32), np.array(labels, np.uint8), np.array(predicted, np.uint8))


@pytest.fixture
def predictions() -> Predictions:
    return predict_with([0.9, 0.5, 0.99, 0.7, 0.8], predicted=[3, 1, 2, 5, 3], labels=[3, 0, 4, 5, 9])


def test_what_was_saved_is_loaded(predictions, tmp_path):
    save_predictions(predictions, tmp_path / "predictions.npz")
    loaded = load_predictions(predictions.labels, 10, tmp_path / "predictions.npz")
    for ours, expected in zip(loaded, predictions, strict=True):
        assert ours.dtype == expected.dtype and np.array_equal(ours, expected)


def test_the_file_is_that_of_numpy_and_holds_no_clock_time(predictions, tmp_path):
    save_predictions(predictions, tmp_path / "predictions.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]
    assert np.load(tmp_path / "predictions.npz").files == ["logits", "labels", "predictions"]
    with zipfile.ZipFile(tmp_path / "predictions.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_pickles_are_not_opened(predictions, tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, logits=predictions.logits, labels=np.array([print], dtype=object), predictions=predictions.predicted)
    with pytest.raises(InputError, match="is damaged"):
        load_predictions(predictions.labels, 10, path)


def test_the_most_confident_mistake_is_first(predictions):
    assert find_mistakes(predictions).tolist() == [2, 4, 1]


def test_mistakes_whose_rounded_confidences_are_equal_are_sorted_by_index():
    predictions = predict_with([0.9, 0.7000004, 0.7000001, 0.7000003], predicted=[1] * 4, labels=[0] * 4)
    assert predictions.confidences().tolist() == [0.9, 0.7, 0.7, 0.7]
    assert find_mistakes(predictions).tolist() == [0, 1, 2, 3]


def test_in_a_gallery_the_true_classes_take_turns():
    predictions = predict_with(
        [0.5, 0.9, 0.8, 0.6, 0.7, 0.99, 0.3], predicted=[2, 2, 7, 2, 7, 0, 4], labels=[2, 2, 7, 2, 7, 1, 4]
    )
    assert find_correct(predictions).tolist() == [1, 2, 4, 3, 0, 6]  # image 5 is a mistake
    # The most confident of classes 2, 4 and 7, the second of 2 and 7, the third of 2.
    assert spread_over_classes(predictions, find_correct(predictions)).tolist() == [1, 6, 2, 3, 4, 0]
    assert spread_over_classes(predictions, find_mistakes(predictions)).tolist() == [5]


def test_the_table_of_mistakes_is_what_the_contract_says(predictions, tmp_path):
    path = tmp_path / "misclassified.csv"
    save_mistakes(predictions, find_mistakes(predictions), CLASSES, path)
    assert path.read_text() == (
        "index,label,predicted,confidence,label_name,predicted_name\n"
        "2,4,2,0.99,class4,class2\n4,9,3,0.8,class9,class3\n1,0,1,0.5,class0,class1\n"
    )
    assert load_mistakes(predictions, path).tolist() == [2, 4, 1]


def test_a_table_without_mistakes_is_a_table(predictions, tmp_path):
    path = tmp_path / "misclassified.csv"
    flawless = predictions._replace(labels=predictions.predicted)
    save_mistakes(flawless, find_mistakes(flawless), CLASSES, path)
    assert path.read_text() == "index,label,predicted,confidence,label_name,predicted_name\n"
    assert load_mistakes(flawless, path).tolist() == []


@pytest.mark.parametrize("change", [
    lambda rows: rows[:-1],  # cut off
    lambda rows: [rows[0], *rows[:0:-1]],  # in another order
    lambda rows: [*rows, rows[-1]],
    lambda rows: [*rows, "99,0,1,0.5,cat,dog\n"],
    lambda rows: [*rows[:-1], "1,0,7,0.5,class0,class7\n"],  # image 1 was predicted as 1
])  # fmt: skip
def test_a_table_without_exactly_the_mistakes_is_refused(change, predictions, tmp_path):
    path = tmp_path / "misclassified.csv"
    save_mistakes(predictions, find_mistakes(predictions), CLASSES, path)
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(rows)))
    with pytest.raises(InputError, match="is cut off, or belongs to other predictions; run `dvc repro misclassified`"):
        load_mistakes(predictions, path)
