"""`dataset: folder`: which files become training and test images of which class, and what is said of disorder."""

import hashlib
import os
import runpy
import shutil
import subprocess
import warnings
from pathlib import Path
from threading import current_thread, main_thread

import numpy as np
import pytest
from dvc.utils.hydra import apply_overrides
from PIL import Image
from scmrepo.git import Git

from cifar.data import folder
from cifar.data.folder import Pictures, build_splits, list_images
from cifar.data.splits import load_classes, load_split
from cifar.system.errors import InputError
from stages import download

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)


def colour(path: Path) -> tuple[int, int, int]:
    """A colour that tells the file's picture from others."""
    return tuple(hashlib.sha256(path.name.encode() + path.parent.name.encode()).digest()[:3])


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", tuple(RANDOM.integers(20, 60, 2)), colour(path)).save(path)


def listed(folder: Path, **changes):
    return list_images(folder, **{"test_share": 0.2, "seed": 0} | changes)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    draw(*(tmp_path / f"{part}/{name}/{k}.png" for part in ("train", "test") for name in "ba" for k in range(3)))
    draw(tmp_path / "train/b/deep/9.png")
    found = listed(tmp_path)
    assert found.classes == ["a", "b"]
    assert names(found.train["b"]) == ["0.png", "1.png", "2.png", "9.png"]
    assert found.test["b"] == [tmp_path / f"test/b/{k}.png" for k in range(3)]


@pytest.mark.parametrize(
    ("share", "counts"), [(0.2, [10, 1, 1]), (0.5, [25, 2, 1]), (0.99, [49, 4, 1]), (0.01, [1, 1, 1])]
)
def test_a_share_of_each_class_is_for_testing_and_never_all_or_none(tmp_path, share, counts):
    for name, count in {"a": 50, "b": 5, "c": 2}.items():
        draw(*(tmp_path / f"{name}/{k}.png" for k in range(count)))
    found = listed(tmp_path, test_share=share)
    assert [len(found.test[name]) for name in "abc"] == counts
    for name in "abc":
        assert sorted([*found.train[name], *found.test[name]]) == sorted((tmp_path / name).iterdir())


def test_a_new_picture_moves_at_most_one_of_the_others(tmp_path):
    draw(*(tmp_path / f"{name}/{k}.png" for name in "ab" for k in range(50)))
    before = {seed: listed(tmp_path, seed=seed) for seed in (0, 1)}
    assert before[0].test["a"] != before[1].test["a"]
    for k in range(10):
        draw(tmp_path / f"a/new{k}.png")
        after = listed(tmp_path)
        assert after.test["b"] == before[0].test["b"]
        assert len(({*after.test["a"]} ^ {*before[0].test["a"]}) - {tmp_path / f"a/new{k}.png"}) <= 1
        (tmp_path / f"a/new{k}.png").unlink()


def test_a_class_may_be_called_train(tmp_path):
    draw(*(tmp_path / f"{name}/{k}.png" for name in ("train", "bus") for k in range(3)))
    assert listed(tmp_path).classes == ["bus", "train"]


def test_classes_take_turns_and_the_pictures_are_those_of_their_files(tmp_path):
    draw(
        *(tmp_path / f"train/{name}/{k}.png" for name, count in {"a": 3, "b": 1, "c": 2}.items() for k in range(count))
    )
    draw(*(tmp_path / f"test/{name}/7.png" for name in "abc"))
    seen = []
    train, test = build_splits(listed(tmp_path), 16, seen.append)
    assert train.labels.tolist() == [0, 1, 2, 0, 2, 0] and test.labels.tolist() == [0, 1, 2]
    assert train.labels.dtype == np.uint8 and train.images.shape == (6, 16, 16, 3)
    expected = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]
    for image, (name, k) in zip(train.images[:], expected, strict=True):
        assert (image == colour(tmp_path / f"train/{name}/{k}.png")).all()
    assert (test.images[np.array([2])] == colour(tmp_path / "test/c/7.png")).all()
    assert sum(seen) == 7


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def add(*paths: str):
    return lambda folder: draw(*(folder / path for path in paths))


def touch(path: str):
    return lambda folder: (folder / path).write_text("notes")


def make(path: str):
    return lambda folder: (folder / path).mkdir()


def link(path: str):
    return lambda folder: (folder / path).symlink_to(folder / "a")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (shutil.rmtree, r"is missing; put pictures into \S+/<class>/"),
        (empty, "has no folders of pictures; put pictures into .*only what was added by `dvc add`"),
        (add("one.png"), "one.png is in no class's folder; move it into one, or out of"),
        (touch("notes.txt"), "notes.txt is in no class's folder"),
        (make("c"), "/c holds no picture; add some or delete it"),
        (add("c/1.png"), "/c has one picture, at least two are needed"),
        (lambda folder: shutil.rmtree(folder / "b"), "has 1 folders, one for each class; 2 to 1,000 work"),
        (add("train/x/1.png", "test/x/1.png"), "has train/, test/ and a/; put pictures"),
        (make("c\nd"), r"has a folder 'c\\nd', which is no name for a class"),
        (link("linked"), "/linked is a link, whose pictures DVC does not look at; copy the folder"),
        (link("a/linked"), "/a/linked is a link, whose pictures DVC does not look at; copy the folder"),
    ],
)
def test_folders_in_disorder_are_one_line(tmp_path, change, told):
    folder = tmp_path / "images"
    draw(*(folder / f"{name}/{k}.png" for name in "ab" for k in range(2)))
    for name in ("README.md", "a.dvc", ".gitignore", "desktop.ini", "Thumbs.db", "a/desktop.ini"):
        (folder / name).touch()
    (folder / ".old").symlink_to(folder / "a")
    assert listed(folder).classes == ["a", "b"]
    change(folder)
    with pytest.raises(InputError, match=told):
        listed(folder)


def test_training_and_test_folders_in_disorder_are_one_line(tmp_path):
    draw(tmp_path / "train/a/1.png", tmp_path / "train/b/1.png")
    with pytest.raises(InputError, match="has train/ alone; put pictures into"):
        listed(tmp_path)
    draw(tmp_path / "test/a/1.png", tmp_path / "test/c/1.png")
    with pytest.raises(InputError, match="train has a class b, which .*test lacks; add its pictures"):
        listed(tmp_path)
    (tmp_path / "test/c").rename(tmp_path / "test/b")
    assert listed(tmp_path).classes == ["a", "b"]
    for name in ("stray.png", "train/stray.png"):
        draw(tmp_path / name)
        with pytest.raises(InputError, match=f"/{name} is in no class's folder; move it into one, or out of"):
            listed(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "test").rename(tmp_path.with_name("elsewhere"))
    (tmp_path / "test").symlink_to(tmp_path.with_name("elsewhere"))
    with pytest.raises(InputError, match="/test is a link, whose pictures DVC does not look at; copy the folder"):
        listed(tmp_path)


def test_all_files_that_are_no_pictures_are_counted_and_the_first_is_named(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(9)]
    draw(*paths)
    paths[4].write_text("my notes")
    with pytest.raises(InputError, match=r"4.png holds no PNG, [^()]+ or GIF picture; replace it or delete it$"):
        Pictures(paths, 16)[:]
    for path in paths[6], paths[8]:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"4.png holds no PNG.* \(2 other files cannot be used either\)$"):
        Pictures(paths, 16)[5:]
    assert Pictures(paths, 16)[:4].shape == (4, 16, 16, 3)


def test_a_picture_that_is_whole_at_the_second_look_is_the_problem_that_was_met_first(tmp_path, monkeypatch):
    draw(tmp_path / "a.png", tmp_path / "b.png")
    paths, real = [tmp_path / "a.png", tmp_path / "b.png"], folder.read_picture
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:50])  # as in the middle of a copy

    def read_and_finish_the_copy(path: Path, size: int) -> np.ndarray:
        try:
            return real(path, size)
        finally:
            if path == paths[1]:
                path.write_bytes(whole)

    monkeypatch.setattr(folder, "read_picture", read_and_finish_the_copy)
    with pytest.raises(InputError, match=r"b.png is cut off or damaged \(.*\); replace it or delete it$"):
        Pictures(paths, 16)[:]
    assert Pictures(paths, 16)[:].shape == (2, 16, 16, 3)


def test_the_filters_of_warnings_which_threads_share_are_set_around_them_and_set_back(tmp_path, monkeypatch):
    paths, real = [tmp_path / f"{k}.png" for k in range(20)], warnings.catch_warnings.__enter__
    for path in paths:
        Image.new("RGB", (16, 16)).save(path, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x09\x00")  # Pillow warns of it
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        folder.read_picture(paths[0], 16)
    entered = []
    monkeypatch.setattr(
        warnings.catch_warnings, "__enter__", lambda self: entered.append(current_thread()) or real(self)
    )
    with warnings.catch_warnings(record=True) as shown:
        before = list(warnings.filters)
        Pictures(paths, 16)[:]
        assert not shown and warnings.filters == before
    assert {*entered} == {main_thread()}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder for the stage `download`, the current one, with pictures of three classes."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    draw(*(tmp_path / f"data/images/{name}/{k}.png" for name in ("cat", "dog", "Ärger") for k in range(6)))
    apply_overrides("params.yaml", ["dataset=folder", "folder.size=24"])
    return tmp_path


def test_the_stage_writes_the_arrays_of_the_contract(project, capsys):
    download.main()
    assert load_classes() == ["cat", "dog", "Ärger"]
    train, test = load_split("train"), load_split("test")
    assert train.images.shape == (15, 24, 24, 3) and np.bincount(test.labels).tolist() == [1, 1, 1]
    listed = []
    for name, split in (("train", train), ("test", test)):
        paths = [Path(line) for line in Path(f"data/dataset/{name}_files.txt").read_text().splitlines()]
        for path, image, label in zip(paths, split.images, split.labels, strict=True):
            assert path.parent.name == load_classes()[label] and (image == colour(path)).all()
        listed += paths
    assert sorted(listed) == sorted(Path("data/images").glob("*/*"))  # every picture once
    assert (
        "folder: 15 training and 3 test images of 24x24 pixels in 3 classes from data/images/"
        in capsys.readouterr().out
    )


def test_pictures_are_counted_while_they_are_read(project, monkeypatch):
    counted = []

    class Bar:
        is_open = False

        def __enter__(self):
            self.is_open = True
            return self

        def __exit__(self, *_):
            self.is_open = False

        def update(self, count: int = 1) -> None:
            assert self.is_open  # a bar of tqdm shows nothing once it is closed
            counted.append(count)

    monkeypatch.setattr(download, "progress", lambda _, total, *__: counted.append(-total) or Bar())
    download.main()
    assert counted[0] == -18 and sum(counted) == 0


def test_git_leaves_pictures_out_but_not_the_readme_and_what_dvc_writes_and_dvc_looks_into_the_folder():
    ours = ["data/images/README.md", "data/images/cat.dvc"]
    pictures = ["data/images/cat/1.png", "data/images/train/cat/1.png"]
    command = ["git", "check-ignore", "--no-index", *ours, *pictures]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split() == pictures
    by_dvc = Git(str(ROOT)).is_ignored  # which asks this of every folder before it looks for .dvc files there
    assert not by_dvc("data/images/") and by_dvc("data/images/cat/")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_picture_leaves_the_data_set_as_it_was(project, split):
    bad = getattr(list_images(Path("data/images"), test_share=0.2, seed=0), split)["dog"][0]
    content = bad.read_bytes()
    os.truncate(bad, 60)
    with pytest.raises(InputError, match=f"{bad} is cut off or damaged"):
        download.main()
    assert not [path for path in project.rglob("data/*") if path.name.endswith(("dataset", ".part"))]
    bad.write_bytes(content)
    download.main()
    before = {path: path.read_bytes() for path in Path("data/dataset").iterdir()}
    os.truncate(bad, 60)
    with pytest.raises(InputError, match=f"{bad} is cut off or damaged"):
        download.main()
    assert {path: path.read_bytes() for path in Path("data/dataset").iterdir()} == before


def test_make_pictures_draws_what_the_page_says_and_the_pipeline_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/images").mkdir(parents=True)
    Path("data/images/README.md").touch()
    runpy.run_path(str(ROOT / ".dvc/pictures.py"), run_name="__main__")
    listing = list_images(Path("data/images"), test_share=0.2, seed=0)
    assert listing.classes == ["arrow", "circle", "cross", "ring", "star", "triangle"]
    assert (sum(map(len, listing.train.values())), sum(map(len, listing.test.values()))) == (288, 72)
    Path("data/images/star/star-01.png").write_bytes(b"mine")
    Path("data/images/star/holiday.png").write_bytes(b"mine too")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / ".dvc/pictures.py"), run_name="__main__")
    assert ended.value.code and Path("data/images/star/star-01.png").read_bytes() == b"mine"
    Path("data/images/star/holiday.png").unlink()
    runpy.run_path(str(ROOT / ".dvc/pictures.py"), run_name="__main__")
    sizes = {Image.open(path).size for path in Path("data/images").rglob("*/*.*")}
    assert all(20 <= side <= 400 for size in sizes for side in size) and len(sizes) > 50
