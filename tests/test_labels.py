"""Doubtful labels: the score against cleanlab, the order and the words by hand, planted wrong labels found."""

import json

import numpy as np
import pandas as pd
import pytest
from cleanlab.rank import get_label_quality_scores, order_label_issues

from benchmarks import label_issues
from cifar.results.labels import describe, find_label_issues, save_label_issues, self_confidences
from cifar.system.errors import InputError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def draw(count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, 10) that are right about two times in three, and labels (N,)."""
    random = np.random.default_rng(48)
    labels = random.integers(0, 10, count, np.uint8)
    logits = 2 * random.normal(size=(count, 10))
    logits[np.arange(count), labels] += 4
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("judged", [{}, {"images": 1}, {"images": [{"index": 0, "label": 3}]}, {"images": [[]]}])
def test_a_file_of_another_form_is_one_line(judged):
    with pytest.raises(InputError, match="^the file has no list of judged images: "):
        label_issues.judged_wrong(judged, np.array([3]))
    for index in -1, 1:
        with pytest.raises(InputError, match=f"^image {index} has another label in the file$"):
            label_issues.judged_wrong({"images": [{"index": index, "label": 3, "votes": {"given": 5}}]}, np.array([3]))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_score_is_cleanlabs_self_confidence():
    logits, labels = draw()
    expected = get_label_quality_scores(labels.astype(int), softmax(logits), method="self_confidence")
    assert self_confidences(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_the_order_is_cleanlabs():
    logits, labels = draw()
    is_issue = logits.argmax(axis=1) != labels
    expected = order_label_issues(is_issue, labels.astype(int), softmax(logits), rank_by="self_confidence")
    issues = find_label_issues(logits, labels)
    assert len(issues.indices) == np.count_nonzero(is_issue) > 400
    # scores are compared to six decimals: images whose scores differ by less may change places
    scores = self_confidences(logits, labels).round(6)
    assert np.array_equal(scores[issues.indices], scores[expected])
    assert set(issues.indices) == set(expected)


def test_a_table_by_hand(tmp_path):
    logits = np.full((4, 10), -1e4, np.float32)
    for row, probabilities in zip(
        logits,
        # cat or frog: labelled cat, so in doubt; labelled frog, so not; doubtful more; as the first
        [{3: 0.16, 6: 0.84}, {3: 0.16, 6: 0.84}, {3: 0.1, 5: 0.3, 0: 0.6}, {3: 0.16, 6: 0.84}],
        strict=True,
    ):
        for k, probability in probabilities.items():
            row[k] = np.log(probability)
    issues = find_label_issues(logits, np.array([3, 6, 3, 3], np.uint8))
    save_label_issues(issues, CLASSES, tmp_path / "issues.csv")
    assert (tmp_path / "issues.csv").read_text() == (
        "index,label,suggested,label_probability,suggested_probability\n"
        "2,cat,airplane,0.1,0.6\n"
        "0,cat,frog,0.16,0.84\n"
        "3,cat,frog,0.16,0.84\n"
    )
    assert describe(issues.first(2), CLASSES) == [
        "the label says cat,\nthe network is\n60% sure of airplane",
        "the label says cat,\nthe network is\n84% sure of frog",
    ]


def test_probabilities_that_round_to_zero_keep_their_order():
    logits = np.array([[30, 0], [50, 0], [40, 0]], np.float32)
    assert find_label_issues(logits, np.ones(3, np.uint8)).indices.tolist() == [1, 2, 0]


def test_labels_that_the_network_agrees_with_make_an_empty_table(tmp_path):
    logits, _ = draw(20)
    issues = find_label_issues(logits, logits.argmax(axis=1).astype(np.uint8))
    save_label_issues(issues, CLASSES, tmp_path / "issues.csv")
    assert len(pd.read_csv(tmp_path / "issues.csv")) == 0 and describe(issues, CLASSES) == []


def test_the_benchmark_finds_a_planted_wrong_label_first(project, tmp_path, monkeypatch):
    """The label that the network doubts most is judged wrong by all: self-confidence then has a precision of 1."""
    monkeypatch.chdir(project.folder)
    first = pd.read_csv("data/label_issues.csv").iloc[0]
    label = int(np.load("data/dataset/test_labels.npy")[first["index"]])
    judged = {"images": [{"index": int(first["index"]), "label": label, "votes": {"given": 0}}]}
    (tmp_path / "judged.json").write_text(json.dumps(judged))
    monkeypatch.setattr("sys.argv", ["label_issues", str(tmp_path / "judged.json")])
    tables = []
    monkeypatch.setattr(label_issues, "report", lambda _, rows, **facts: tables.append((rows, facts)))
    label_issues.main()
    ((rows, facts),) = tables
    plain = next(row for row in rows if (row["score"], row["logits"]) == ("one minus self-confidence", "one view"))
    assert (plain["average_precision"], facts["wrong"]) == (1.0, 1)
