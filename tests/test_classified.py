"""`python -m cifar predict`: pictures from anywhere get the classes and probabilities that the network gives them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pixels import place_of, read_png
from specs import AIRNET, CIFAR

from cifar.__main__ import main
from cifar.data.splits import Statistics
from cifar.nn.inference import normalise
from cifar.nn.networks import build_network
from cifar.nn.saved import Model, save_model
from cifar.results.classified import CHUNK, answers
from cifar.results.gradcam import heatmaps, overlay
from cifar.system.stage import run

ROOT = Path(__file__).parents[1]
CLASSES = ["cat", "sea lion", *(f"class {k}" for k in range(2, 9)), "\x1b[31m"]
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


@pytest.fixture(scope="module")
def model() -> Model:
    network = build_network(AIRNET, CIFAR, seed=0).eval()
    with torch.no_grad():
        network.linear.weight.mul_(40)  # apart from each other, as after training
    return Model(network, Statistics(MEAN, STD), CLASSES)


@pytest.fixture
def folder(model, tmp_path, monkeypatch) -> Path:
    """The current folder: a trained model in models/ and pictures of 32x32 pixels, which keep them."""
    monkeypatch.chdir(tmp_path)
    save_model(model, AIRNET, {})
    (tmp_path / "photos/deeper").mkdir(parents=True)
    for name, pixels in pictures().items():
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path


def pictures() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    names = "a.png", "b.bmp", "deeper/c.png"
    return {name: random.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in names}


def expected(model: Model, image: np.ndarray) -> dict[str, float]:
    """The probability of each class, the largest first: normalised and computed in float64, one step at a time."""
    inputs = (image / 255 - np.array(MEAN)) / np.array(STD)  # (32, 32, 3)
    with torch.no_grad():
        logits = model.network(torch.tensor(inputs, dtype=torch.float32).permute(2, 0, 1)[None])[0].double()
    probabilities = torch.softmax(logits, dim=0)
    order = probabilities.argsort(descending=True)
    return {CLASSES[k]: float(probabilities[k]) for k in order}


def call(monkeypatch, *words: str) -> int:
    """The command's exit status."""
    monkeypatch.setattr(sys, "argv", ["cifar", "predict", *words])
    try:
        run(main, "give the same command again")
    except SystemExit as ended:
        return ended.code
    return 0


def test_each_picture_gets_its_classes_and_their_probabilities(model, folder, monkeypatch, capsys):
    assert call(monkeypatch, "--json", "--top", "10", "photos/b.bmp", "photos/a.png") == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in found] == ["photos/b.bmp", "photos/a.png"]
    for entry in found:
        wanted = expected(model, pictures()[entry["file"].removeprefix("photos/")])
        assert [named["class"] for named in entry["classes"]] == list(wanted)
        assert [named["probability"] for named in entry["classes"]] == pytest.approx([*wanted.values()], abs=1e-5)


def test_the_model_may_lie_elsewhere(model, folder, monkeypatch, capsys):
    names = [f"other {k}" for k in range(10)]
    save_model(model._replace(classes=names), AIRNET, {}, folder=folder / "elsewhere")
    assert call(monkeypatch, "photos/a.png", "--model", "elsewhere", "--top", "1") == 0
    assert "other " in capsys.readouterr().out


def test_damage_to_a_model_elsewhere_is_not_for_make_repro_to_mend(model, folder, monkeypatch, capsys):
    save_model(model, AIRNET, {}, folder=folder / "elsewhere")
    os.truncate(folder / "elsewhere/model.safetensors", 100)
    assert call(monkeypatch, "photos/a.png", "--model", "elsewhere") == 1
    assert capsys.readouterr().err == (
        "error: elsewhere/model.safetensors is damaged or from another training than model.json; "
        "make or copy elsewhere again, or name another folder\n"
    )


def test_a_folder_is_all_pictures_in_it_a_line_each(model, folder, monkeypatch, capsys):
    assert call(monkeypatch, "photos") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == "" and len(lines) == 3
    for line, (name, pixels) in zip(lines, pictures().items(), strict=True):
        wanted = [*expected(model, pixels).items()][:3]
        named = [word for k, p in wanted for word in [*k.replace("\x1b", "\\x1b").split(), f"{p:.1%}"]]
        assert line.split() == [f"photos/{name}", *named]
    assert len({line.index("%") for line in lines}) == 1  # aligned


def test_a_gpu_would_classify_in_float32_not_in_tf32(folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # PyTorch's default
    assert call(monkeypatch, "photos") == 0
    assert torch.backends.cudnn.allow_tf32 is False


def test_what_cannot_be_read_is_a_line_and_the_others_follow(folder, monkeypatch, capsys):
    (folder / "photos/note.txt").write_text("no picture")
    (folder / "photos/half.png").write_bytes((folder / "photos/a.png").read_bytes()[:600])
    (folder / "nothing").mkdir()
    assert call(monkeypatch, "--top", "1", "gone.png", "photos", "nothing", 300 * "x") == 1
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == [f"photos/{name}" for name in pictures()]
    *lines, last = said.err.splitlines()
    starts = (
        "gone.png is missing",
        "photos/half.png is cut off or damaged",
        "photos/note.txt holds no PNG",
        "nothing is ",
        300 * "x" + ": File name too long",
    )
    assert len(lines) == 5 and all(map(str.startswith, lines, (f"error: {start}" for start in starts)))
    assert last == "error: 5 of 8 pictures could not be read"


def test_letters_that_the_terminal_lacks_are_escaped(folder, monkeypatch):
    (folder / "photos/a.png").rename(folder / "photos/\u732b.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert call(monkeypatch, "photos/\u732b.png") == 0
    sys.stdout.seek(0)
    assert sys.stdout.read().startswith("photos/\\u732b.png")


def test_as_json_a_picture_that_cannot_be_read_has_its_error(folder, monkeypatch, capsys):
    assert call(monkeypatch, "--json", "gone.png", "photos/a.png") == 1
    gone, found = json.loads(capsys.readouterr().out)
    assert gone == {"file": "gone.png", "error": "gone.png is missing; a picture file is needed"}
    assert found["file"] == "photos/a.png" and len(found["classes"]) == 3


def test_pictures_beyond_one_chunk_keep_their_order(model, folder):
    names = [Path(f"photos/{name}") for name in pictures()]
    files = [names[k % 3] for k in range(CHUNK + 5)]
    found = list(answers(model, files))
    assert [answer.path for answer in found] == files
    for k, answer in enumerate(found):
        np.testing.assert_allclose(answer.probabilities, found[k % 3].probabilities, rtol=1e-5)


def test_a_sheet_shows_each_picture_beside_its_heatmap(model, folder, monkeypatch, capsys):
    assert call(monkeypatch, "photos", "--heatmap", "sheet.png") == 0
    assert capsys.readouterr().err == "written: sheet.png\n"
    sheet = read_png("sheet.png")
    for pixels in pictures().values():
        y, x = place_of(pixels, sheet)
        heatmap = sheet[y : y + 128, x + 132 : x + 260]
        best = torch.tensor([list(model.classes).index(next(iter(expected(model, pixels))))])
        inputs = normalise(torch.from_numpy(pixels[None]), model.statistics)
        maps = heatmaps(model.network, inputs, "layer3", best, method="gradcam")
        assert np.array_equal(heatmap, overlay(pixels[None], maps)[0].repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "elsewhere"], "elsewhere holds no trained network yet; `dvc repro train` makes one in models"),
        (["--heatmap", "folder.png"], "--heatmap folder.png is a folder; name another file"),
        (["--heatmap", "sheet.jpg"], "--heatmap sheet.jpg must be the name of a .png file"),
        (["--heatmap", "gone/sheet.png"], "--heatmap gone/sheet.png: there is no folder gone that can be written"),
    ],
)
def test_what_it_needs_is_asked_for_in_one_line_before_any_work(folder, monkeypatch, capsys, words, told):
    (folder / "folder.png").mkdir()
    assert call(monkeypatch, "photos", *words) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: {told}") and said.err.count("\n") == 1


def test_a_picture_is_not_replaced_by_its_heatmap(folder, monkeypatch, capsys):
    before = (folder / "photos/a.png").read_bytes()
    assert call(monkeypatch, "photos", "--heatmap", "photos/deeper/../a.png") == 1
    said = "error: --heatmap photos/deeper/../a.png is among the pictures to classify; name another file\n"
    assert capsys.readouterr() == ("", said)
    assert (folder / "photos/a.png").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["a.png", "--top", "0"], ["a.png", "--top", "two"]])
def test_wrong_words_are_refused_with_the_usage(monkeypatch, capsys, words):
    assert call(monkeypatch, *words) == 2
    assert "usage: python -m cifar predict" in capsys.readouterr().err


def test_it_starts_without_what_takes_seconds_to_import(folder):
    """matplotlib is for heatmaps, onnx for the export; the pipeline's other packages are of no use here."""
    script = "import runpy, sys; runpy.run_module('cifar', run_name='__main__'); print(*sys.modules, file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, "predict", "photos/a.png"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0 and ended.stdout.startswith("photos/a.png  ")
    slow = {"albumentations", "cv2", "dvc", "matplotlib", "onnx", "onnxruntime", "pandas", "scipy", "torch._dynamo"}
    assert "torch" in ended.stderr.split() and not slow & {*ended.stderr.split()}
