"""Captions of predictions, by hand."""

import numpy as np

from cifar.results.captions import prediction_captions
from cifar.results.predictions import Predictions


def test_a_caption_names_the_true_class_the_predicted_class_and_the_runner_up_with_their_probabilities():
    probabilities = np.array([[0.2, 0.7, 0.1], [0.05, 0.15, 0.8], [0.6, 0.25, 0.15]])
    predictions = Predictions(
        np.log(probabilities).astype(np.float32), np.array([2, 2, 1], np.uint8), np.array([1, 2, 0], np.uint8)
    )
    captions = prediction_captions(predictions, np.array([0, 1]), ["cat", "dog", "frog"])
    assert captions == [
        "true: frog 10.0%\npredicted: dog 70.0%\nrunner-up: cat 20.0%",
        "true: frog 80.0%\npredicted: frog 80.0%\nrunner-up: dog 15.0%",
    ]


def test_no_images_have_no_captions():
    nothing = Predictions(np.zeros((0, 10), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    assert prediction_captions(nothing, np.zeros(0, int), list("abcdefghij")) == []
