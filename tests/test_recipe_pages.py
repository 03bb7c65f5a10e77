"""A page for each recipe: made from a finished run and nothing else, and every claim on it follows from its figures."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_docs import rows

from cifar.config.params import read_yaml
from cifar.system.errors import InputError
from cifar.training.loop import epoch_line, total_line
from recipes import finished, mistakes, page, sentences
from recipes.__main__ import page as command
from recipes.__main__ import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in ROOT.glob("docs/data/*") if path.is_dir())
SOURCES = sorted(path.stem for path in ROOT.glob("recipes/sources/*.yaml"))
ANIMALS = ["bird", "cat", "deer", "dog", "frog", "horse"]
CIFAR10 = ["airplane", "automobile", *ANIMALS, "ship", "truck"]


def params_of(recipe: str) -> Path:
    return Path("params.yaml" if recipe == "default" else f"recipes/{recipe}.yaml")


@pytest.mark.parametrize("recipe", PAGES)
def test_a_page_is_what_its_data_make(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = page.render(recipe, params_of(recipe), read_yaml(params_of(recipe)))
    assert (ROOT / f"docs/{recipe}.md").read_text() == text, f"run `python -m recipes page {recipe}`"
    for name, chart in page.charts(recipe).items():
        assert (ROOT / f"docs/data/{recipe}/{name}.svg").read_text() == chart, f"run `python -m recipes page {recipe}`"


def test_the_page_on_recipes_links_the_page_of_each():
    assert set(PAGES) <= set(re.findall(r"\]\(\.\./docs/([\w-]+)\.md\)", (ROOT / "recipes/README.md").read_text()))


@pytest.mark.parametrize("recipe", SOURCES)
def test_what_a_source_states_is_what_the_results_have(recipe):
    source = read_yaml(ROOT / f"recipes/sources/{recipe}.yaml")
    stated = source["stated"].get("accuracy", source["stated"].get("tta_accuracy"))
    results = (ROOT / "docs/results.md").read_text()
    lines = [row for row in rows(results, "## The main runs") if row[0].split(",")[0].strip("`") == recipe]
    assert any(f"{stated:.4f}" in cell for row in lines for cell in row), lines
    if "log" in source:
        log = [float("nan") if value is None else float(f"{100 * value:.2f}") for value in source["log"]]
        column = pd.read_csv(ROOT / "docs/epochs.csv")[f"{recipe}_source"]
        np.testing.assert_array_equal(column[: len(log)], log)
        assert column[len(log) :].isna().all()


@pytest.mark.parametrize("recipe", sorted({*PAGES} & {*SOURCES} - {"fast", "best"}))
def test_the_tables_have_the_figures_of_the_page(recipe):
    folder = ROOT / f"docs/data/{recipe}"
    history = pd.read_csv(folder / "history.csv")
    column = "here_validation" if read_yaml(folder / "params.yaml")["val_size"] else "here"
    here = pd.read_csv(ROOT / "docs/epochs.csv")[f"{recipe}_{column}"].dropna()
    np.testing.assert_allclose(here, 100 * history["val_accuracy"], atol=0.0501)
    run, reached = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "evaluate"))
    (row,) = [row for row in rows((ROOT / "README.md").read_text(), "## Recipes") if f"`{recipe}`" in row[0]]
    assert row[6:] == [f"{reached['accuracy']:.4f}", f"{run['machine']}: {run['minutes']:.0f}", run["commit"][:7]]


@pytest.fixture(scope="module")
def made(project, tmp_path_factory) -> Path:
    """A clone of the project's repository, in which the page of its finished run has been made."""
    home = project.clone(tmp_path_factory.mktemp("pages") / "home").folder
    log = home.parent / "log"
    score = {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.2, "val_loss": 2.0, "val_accuracy": 0.2, "lr": 0.1}
    lines = [epoch_line(score, 2, 20, seconds) for seconds in (0.1, 0.2)]
    log.write_text("\n".join([*lines, total_line(90), "written: all"]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, value in project.environment.items():
            patch.setenv(name, value)
        command(parse(["page", "default", str(project.folder), "--machine", "B", "--log", str(log)]))
    return home


def test_the_page_shows_the_runs_own_figures(project, made):
    text, folder = (made / "docs/default.md").read_text().replace("\u00a0", " "), project.folder
    metrics = {name: json.loads((folder / f"metrics/{name}.json").read_text()) for name in ("evaluate", "train")}
    with np.load(folder / "data/predictions.npz") as predictions:
        labels, predicted = predictions["labels"], predictions["predictions"]
    wrong = int((labels != predicted).sum())
    assert f"reaches **{100 * (50 - wrong) / 50:.2f} %** on the 50 test images" in text
    assert f"classifies {50 - wrong} of 50 test images correctly" in text
    assert f"{metrics['train']['parameters']:,} parameters" in text
    assert "| minutes of training, with validation | 1.5 |" in text
    assert "| images a second, with validation, by epoch | 100 to 200 |" in text
    assert json.loads((folder / "models/model.json").read_text())["sha256"] in text
    assert f"| commit | {project.git('rev-parse', 'HEAD')[:7]} |" in text
    assert "| machine | [B](../benchmarks/README.md#machines) |" in text
    assert "of 32 × 32 pixels" in text and "20 of the training images are held out for validation" in text
    confusion = pd.read_csv(made / "docs/data/default/confusion.csv")
    classes = (folder / "data/dataset/classes.txt").read_text().split()
    expected = np.histogram2d(labels, predicted, bins=[range(11)] * 2)[0].astype(int)
    assert confusion["images"].to_numpy().reshape(10, 10).tolist() == expected.tolist()
    assert list(dict.fromkeys(confusion["actual"])) == classes
    history = pd.read_csv(folder / "plots/train/history.csv")
    for row in history.itertuples():
        assert re.search(rf"^\| {row.epoch} \|.* {100 * row.val_accuracy:.1f} % \|$", text, re.MULTILINE)


def test_the_page_embeds_the_runs_charts_and_links_lead_somewhere(project, made):
    text = (made / "docs/default.md").read_text()
    charts = re.findall(r"!\[[^\]]+\]\((data/default/(\w+)\.svg)\)", text)
    assert len(charts) == 6
    for path, name in charts:
        assert (made / "docs" / path).read_bytes() == (project.folder / f"plots/report/{name}.svg").read_bytes()
    names = sorted(path.name for path in (made / "docs/data/default").iterdir())
    drawn = [f"{name}.svg" for name in page.DRAWN]
    assert names == sorted([*finished.COPIED, *drawn, "confusion.csv", "run.json"])  # no image of the data set
    assert sum(path.stat().st_size for path in (made / "docs/data/default").iterdir()) < 500_000
    assert max(map(len, text.split("```")[0].splitlines())) <= 140  # the prose before the network's layers is wrapped


def test_made_again_from_its_data_it_has_the_same_bytes(made, monkeypatch):
    before = (made / "docs/default.md").read_bytes()
    (made / "docs/default.md").unlink()
    monkeypatch.chdir(made)
    command(parse(["page", "default"]))
    assert (made / "docs/default.md").read_bytes() == before
    shutil.move("docs/data/default/mistakes.csv", "aside")
    with pytest.raises(
        InputError, match=r"docs/data/default/ lacks mistakes.csv; name the folder of a finished run too"
    ):
        command(parse(["page", "default"]))
    shutil.move("aside", "docs/data/default/mistakes.csv")


def test_other_runs_than_it_says_are_refused_and_nothing_is_written(project, made, monkeypatch):
    monkeypatch.chdir(made)
    before = {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()}
    for words, message in {
        "eva4-s8 {run}": r"params.yaml is not eva4-s8 of its commit; name the recipe that it ran, and each",
        "default {run} -S seed=1": r"params.yaml is not default of its commit",
        "default {home}": r"is no finished run: download, .* not up to date; run `dvc repro` there",
        "default nowhere": r"nowhere has no dvc.yaml; name a clone of this project",
        "default {run} --log nowhere": r"cannot read nowhere: No such file",
        "default {run} --log params.yaml": r"params.yaml has no line `training and validation took",
        "default --machine B": r"-S, --machine and --log describe a finished run; also give its FOLDER",
        "unknown {run}": r"there is no recipe 'unknown'; choose from best, demo,",
        "fast": r"docs/data/fast/ lacks params.yaml, .*; name the folder of a finished run too",
    }.items():
        with pytest.raises(InputError, match=message):
            command(parse(["page", *words.format(run=project.folder, home=made).split()]))
    assert {path: path.read_bytes() for path in Path("docs").rglob("*") if path.is_file()} == before


def test_a_run_of_code_that_is_in_no_commit_of_this_branch_is_refused(project, tmp_path, monkeypatch):
    elsewhere = project.clone(tmp_path / "elsewhere")
    monkeypatch.chdir(project.folder)
    assert finished.commit_of(elsewhere.folder) == project.git("rev-parse", "HEAD").strip()
    for name in "stages/train.py", "params.yaml":
        with open(elsewhere.folder / name, "a") as file:
            file.write("# changed\n")
    with pytest.raises(InputError, match=r"elsewhere has uncommitted changes: stages/train.py; commit them$"):
        finished.commit_of(elsewhere.folder)
    elsewhere.git("commit", "--quiet", "--all", "--message=other")
    with pytest.raises(InputError, match=r"is not in this branch; merge it first"):
        finished.commit_of(elsewhere.folder)


def counts_of(classes: list[str], confused: dict[tuple[str, str], int], right: int = 100) -> pd.DataFrame:
    table = pd.DataFrame(np.eye(len(classes), dtype=int) * right, classes, classes)
    for (actual, predicted), images in confused.items():
        table.loc[actual, predicted] = images
    return table


def test_the_pairs_confused_most_are_named_with_both_directions_together():
    counts = counts_of(
        ["a", "b", "c", "d"], {("a", "b"): 3, ("b", "a"): 4, ("c", "a"): 2, ("d", "c"): 1, ("b", "d"): 6}
    )
    assert mistakes.concentration(counts) == (
        "The pairs confused most are a and b (7), b and d (6) and a and c (2). These 3 of 6 pairs have 94\u00a0% "
        "of the 16 mistakes."
    )


def test_a_direction_is_named_only_if_chance_does_not_explain_it():
    # of 3 pairs, so a p-value below 0.05 / 3: 2 * (1 + 10) / 2**10 = 0.0215 for 9 of 10, 2 / 2**10 = 0.002 for 10 of 10
    nine = counts_of(["a", "b", "c"], {("a", "b"): 9, ("b", "a"): 1})
    assert mistakes.one_sided(nine) == "No pair of classes is significantly more often confused in one direction."
    ten = counts_of(["a", "b", "c"], {("b", "a"): 10, ("a", "c"): 5, ("c", "a"): 5})
    assert mistakes.one_sided(ten) == (
        "One pair of classes is significantly more often confused in one direction: b is taken for a 10 times, and the "
        "reverse never happens."
    )


def test_animals_and_vehicles_are_told_apart_only_in_cifar10():
    counts = counts_of(
        CIFAR10, {("cat", "dog"): 5, ("truck", "ship"): 2, ("ship", "airplane"): 1, ("bird", "airplane"): 2}
    )
    assert mistakes.kinds(counts).replace("\u00a0", " ") == (
        "Of the mistakes, 5 (50 %) are between two animals, 3 (30 %) are between two vehicles and 2 (20 %) are between "
        "an animal and a vehicle. If all pairs of classes were confused equally often, these shares would be 33 %, "
        "13 % and 53 %."
    )
    assert mistakes.kinds(counts.rename(index={"cat": "lynx"}, columns={"cat": "lynx"})) == ""


def test_a_class_is_predicted_too_often_or_too_rarely_only_if_chance_does_not_explain_it():
    # of 3 classes, so a p-value below 0.05 / 3. b: 10 of 11 mistakes, 2 * (1 + 11) / 2**11 = 0.012. a: 2 / 2**6 = 0.031
    counts = counts_of(["a", "b", "c"], {("a", "b"): 6, ("c", "b"): 4, ("b", "c"): 1})
    assert mistakes.leanings(counts) == (
        "The class b is predicted significantly too often: 10 images of other classes are predicted as b, and "
        "1 of class b as another class."
    )
    assert mistakes.leanings(counts.T) == (
        "The class b is predicted significantly too rarely: 1 image of other classes is predicted as b, and "
        "10 of class b as another class."
    )
    fewer = counts_of(["a", "b", "c"], {("a", "b"): 3, ("c", "b"): 2, ("b", "c"): 1})
    assert mistakes.leanings(fewer) == ("The network predicts no class significantly too often or too rarely.")


def test_the_classes_whose_predictions_are_least_often_right():
    counts = counts_of(["a", "b", "c"], {("a", "b"): 3, ("c", "b"): 2, ("b", "c"): 1})  # 100 of 105, 100 of 101
    assert mistakes.precision(counts).replace("\u00a0", " ") == (
        "Precision, the share of a class's predictions that are right, is lowest for b (95.2 %) and c (99.0 %)."
    )


def test_how_sure_the_network_is_of_its_mistakes():
    said = mistakes.sureness(pd.DataFrame({"confidence": [0.95, 0.6, 0.91, 0.4, 0.7]}))
    assert said.replace("\u00a0", " ") == (
        "Half of the mistakes have a confidence of 70 % or more, and 2 of 5 have more than 90 %."
    )


def test_a_network_without_mistakes_is_said_to_have_none():
    counts = counts_of(["a", "b"], {})
    assert mistakes.paragraphs(counts, pd.DataFrame({"confidence": []})) == [
        "The network makes no mistake on the test images."
    ]


VERDICTS = {
    "above": (
        {"accuracy": 0.8922},
        "The source reports an accuracy of 89.22 %. This run is 0.11 points higher; one run cannot show how much of "
        "this is chance.",
    ),
    "the same": ({"accuracy": 0.8933}, "The source reports an accuracy of 89.33 %. This run has the same accuracy."),
    "below": (
        {"accuracy": 0.9003, "target": 0.9},
        "The source asks for at least 90 %, which this run does not reach. The source also reports an accuracy of "
        "90.03 %. This run is 0.70 points lower; one run cannot show how much of this is chance.",
    ),
    "only a target": ({"target": 0.85}, "The source asks for at least 85 %, which this run reaches."),
    "nothing": ({}, ""),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_ours_and_the_stated_accuracy_are_compared_as_far_as_one_run_can_tell(case):
    stated, said = VERDICTS[case]
    scores = {"accuracy": 0.8933, "images": 10_000}
    assert sentences.verdict(scores, stated, "accuracy").replace("\u00a0", " ") == said


def test_the_end_of_a_training_is_told_by_its_last_quarter():
    table = {
        "epoch": range(1, 9),
        "val_accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.7],
        "lr": [0.8] * 5 + [0.4, 0.2, 0.1],
    }
    assert sentences.progress(pd.DataFrame(table), "test").replace("\u00a0", " ") == (
        "From epoch 6 to 8, while the learning rate went from 0.4 to 0.1, the test accuracy rose by 10.0 points. "
        "It was highest after epoch 7, at 75.00 %."
    )
    assert sentences.progress(pd.DataFrame(table).head(3), "test") == ""
    table["val_accuracy"] = [0.7] * 8
    assert sentences.progress(pd.DataFrame(table), "test") == (
        "From epoch 6 to 8, while the learning rate went from 0.4 to 0.1, the test accuracy stayed the same."
    )
    table["lr"] = [0.1] * 8
    assert sentences.progress(pd.DataFrame(table), "test").startswith(
        "From epoch 6 to 8, at a learning rate of 0.1, the"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.txt", b"\xff"),
        ("history.csv", b"epoch,train_loss\n1,0.5\n=======\n2,0.4\n"),
        ("history.csv", b"epoch,train_loss\n1,<<<<<<< HEAD\n"),
        ("mistakes.csv", b"\xff"),
    ],
)
def test_a_damaged_file_of_a_page_is_one_line(tmp_path, name, content):
    shutil.copytree(ROOT / "docs/data/demo", tmp_path / "demo")
    (tmp_path / "demo" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is (not UTF-8|damaged)"):
        finished.load(tmp_path / "demo")


def test_a_run_without_mistakes_has_an_empty_table(tmp_path):
    (tmp_path / "mistakes.csv").write_text("index,label,predicted,confidence,label_name,predicted_name\n")
    assert finished.read_table(tmp_path / "mistakes.csv").empty


def test_classes_may_have_names_that_look_like_numbers_or_nothing(tmp_path):
    (tmp_path / "confusion.csv").write_text("actual,predicted\n01,01\n01,nan\nnan,nan\n")
    found = finished.count_confusion(finished.read_table(tmp_path / "confusion.csv"), ["01", "nan"])
    assert found["images"].tolist() == [1, 1, 0, 1]
    found.to_csv(tmp_path / "counts.csv", index=False)
    counts = mistakes.confusion_counts(finished.read_table(tmp_path / "counts.csv"))
    assert list(counts.index) == ["01", "nan"]
    assert page.table(["class"], [("a|b",)]).endswith("| a\\|b |")  # else it would be two cells


def test_a_run_of_few_classes_or_without_views_has_no_such_figures():
    data = finished.load(ROOT / "docs/data/fast")
    for key in "top5_accuracy", "tta_accuracy":
        data.files["evaluate"].pop(key)
    assert "five most likely" not in page.test_images(data)["result_words"]
    source = read_yaml(ROOT / "recipes/sources/fast.yaml")
    assert "with test-time" not in page.head(data, source)["opening"]
    assert page.head(data, source)["verdict"] == ""


def test_what_the_run_changed_is_not_said_to_have_changed_since():
    data, path = finished.load(ROOT / "docs/data/fast"), params_of("fast")
    today = data.params | {"model": {"name": "resnet18"}, "seed": 7}
    assert "`seed` and `model.name` changed in this file" in sentences.recipe_words(path, data, today)
    data.files["run"]["changes"] = ["~model", "+model={name:airnet}"]
    assert "Since this run, `seed` changed in this file" in sentences.recipe_words(path, data, today)


def test_classes_that_are_taken_for_equally_often_are_all_named():
    rows_of = {name: cells for name, *cells in page.test_images(finished.load(ROOT / "docs/data/eva4-s11"))["classes"]}
    assert rows_of["airplane"][-1] == "bird and ship (17 each)"  # of the matrix: 3, 17, 3, 1, 0, 1, 1, 17, 3
    assert rows_of["cat"][-1] == "dog (54)"


def test_the_page_says_why_the_accuracy_of_the_last_epoch_differs_and_only_where_it_does():
    data = finished.load(ROOT / "docs/data/eva4-s11")
    said = sentences.rounding(data).replace("\u00a0", " ")
    assert said == "This test accuracy is computed in bfloat16; in float32 it is 93.54 %."
    data.files["train"]["val_accuracy"] = data.files["evaluate"]["accuracy"]
    assert sentences.rounding(data) == ""
