from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cifar.data.shapes import CLASSES, SHAPES, draw_split
from cifar.data.splits import load_classes, load_split
from stages import download

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drawn():
    return draw_split(1500, seed=0, split="train")


def test_the_arrays_are_as_documented(drawn):
    (images, labels), masks = drawn
    assert (images.shape, images.dtype) == ((1500, 32, 32, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((1500,), np.uint8)
    assert (masks.shape, masks.dtype) == ((1500, 32, 32), bool)
    assert len(CLASSES) == 10 and not any(" " in name for name in CLASSES)


def test_the_seed_and_the_split_decide_the_images_and_nothing_else():
    def draw(seed, split):
        (images, labels), masks = draw_split(40, seed, split)
        return images.tobytes() + labels.tobytes() + masks.tobytes()

    assert draw(0, "train") == draw(0, "train")
    assert len({draw(seed, split) for seed in (0, 1) for split in ("train", "test")}) == 4


@pytest.mark.parametrize("count", [10, 300, 1501])
def test_classes_are_balanced_and_in_random_order(count):
    labels = draw_split(count, seed=3, split="test")[0].labels
    counts = np.bincount(labels, minlength=10)
    assert counts.sum() == count and np.ptp(counts) == (count % 10 > 0)
    assert labels.tolist() != sorted(labels)


def test_the_shape_stands_out_where_its_mask_is(drawn):
    (images, _), masks = drawn
    inside = np.stack([image[mask].mean(axis=0) for image, mask in zip(images, masks, strict=True)])
    outside = np.stack([image[~mask].mean(axis=0) for image, mask in zip(images, masks, strict=True)])
    assert (np.abs(inside - outside).max(axis=1) > 30).all()  # of 255, in the clearest channel
    own, others = (images - mean[:, None, None] for mean in (inside, outside))
    is_nearer_to_inside = np.square(own.astype(float)).sum(-1) < np.square(others.astype(float)).sum(-1)
    assert (is_nearer_to_inside == masks).mean() > 0.97


def test_shapes_lie_wholly_inside_and_are_large_enough_to_see(drawn):
    (_, labels), masks = drawn
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 601), np.linspace(-1.5, 1.5, 601))
    for label, (name, shape) in enumerate(SHAPES.items()):
        reach = np.hypot(x, y)[shape(x, y)].max()
        assert 0.9 < reach <= 1.01, name  # a unit circle surrounds each
        area = 3.0**2 * shape(x, y).mean()
        drawn_areas = masks[labels == label].sum(axis=(1, 2))
        assert drawn_areas.min() > 0.9 * area * 10**2 and drawn_areas.max() < 1.1 * area * 13.5**2, name


@pytest.mark.parametrize("alpha", [1e2, 1e5])
def test_a_linear_model_stays_under_60_percent(drawn, alpha):
    images, labels = drawn[0]
    test = draw_split(500, seed=0, split="test")[0]
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha)).fit(images.reshape(len(images), -1), labels)
    assert model.score(test.images.reshape(len(test.images), -1), test.labels) < 0.6


def test_the_stage_keeps_the_masks_and_says_what_it_drew(tmp_path, monkeypatch, capsys):
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(ROOT / "params.yaml")
    params |= {"dataset": "shapes", "shapes": {"train": 600, "test": 20}, "val_size": 0, "seed": 5}
    with open(tmp_path / "params.yaml", "w") as file:
        yaml.dump(params, file)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)

    download.main()
    for name, count in (("train", 600), ("test", 20)):
        split, masks = draw_split(count, 5, name)
        np.testing.assert_array_equal(load_split(name).images, split.images)
        np.testing.assert_array_equal(load_split(name).labels, split.labels)
        np.testing.assert_array_equal(np.load(f"data/dataset/{name}_masks.npy"), masks)
    assert load_classes() == CLASSES
    assert capsys.readouterr().out == "shapes: 600 training and 20 test images drawn from seed 5\n"
