"""A page for each recipe, docs/<recipe>.md: what was asked, what a finished run came to, and how both compare.

The page is made from docs/data/<recipe>/, which holds the run's small files, and from recipes/sources/<recipe>.yaml. It
shows no image of the data set.
"""

import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cifar.config.params import read_yaml
from cifar.results import words
from cifar.results.heatmaps import METHODS, shown_mistakes
from cifar.results.vega import CHARTS, draw
from cifar.system.files import write_text
from recipes import mistakes, sentences
from recipes.finished import DATA, Data, load, read_table

HERE = Path(__file__).parent
# What the page shows of params.yaml, in this order.
SETTINGS = {
    "model": "network",
    "augment": "augmentation",
    "batch_size": "batch size",
    "loss": "loss",
    "optimizer": "optimizer",
    "l1": "L1",
    "schedule": "schedule",
    "filter": "filter",
    "average": "average of the weights",
    "test_time_augmentation": "test-time augmentation",
}
DRAWN = "accuracy", "loss", "reliability"  # charts whose tables are in docs/data/<recipe>/
WIDTH = 140  # characters of a line


def write_page(recipe: str, params: Path, today: Mapping[str, Any]) -> Path:
    """Make docs/<recipe>.md from docs/data/<recipe>/; the file `params` holds the recipe, with the values `today`."""
    page = DATA.parent / f"{recipe}.md"
    text = render(recipe, params, today)
    for name, chart in charts(recipe).items():
        write_text(DATA / recipe / f"{name}.svg", chart)
    write_text(page, text)
    return page


def charts(recipe: str) -> dict[str, str]:
    """The charts of DRAWN as SVG, by name."""
    tables = {name: read_table(DATA / recipe / Path(CHARTS[name].table).name) for name in DRAWN}
    return {name: draw(CHARTS[name], {"workspace": table}) for name, table in tables.items()}


def render(recipe: str, params: Path, today: Mapping[str, Any]) -> str:
    data, source = load(DATA / recipe), HERE / f"sources/{recipe}.yaml"
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["wrap"] = wrap
    environment.globals["table"] = table
    source = read_yaml(source) if source.is_file() else {}
    text = environment.get_template("page.jinja").render(
        recipe=recipe,
        source=source,
        folder=f"{DATA.name}/{recipe}",
        **head(data, source),
        **training(data, source),
        **test_images(data),
        **rest(data),
        recipe_words=sentences.recipe_words(params, data, today),
        again=command_for(recipe, data.files["run"]["changes"]),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def command_for(recipe: str, changes: Sequence[str]) -> str:
    """What makes such a run again."""
    ours = "dvc exp run" if changes else "dvc repro"
    start = ours if recipe == "default" else f"python -m recipes run {recipe}"
    return " ".join([start, *(f"-S {shlex.quote(change)}" for change in changes)])


def head(data: Data, source: Mapping[str, Any]) -> dict[str, Any]:
    """What was reached, and what the source states."""
    scores, train = data.files["evaluate"], data.files["train"]
    stated = source.get("stated", {})
    name = "tta_accuracy" if "tta_accuracy" in stated and "tta_accuracy" in scores else "accuracy"
    rows = [
        ("test accuracy", "accuracy", words.percent(scores["accuracy"])),
        ("test accuracy with test-time augmentation", "tta_accuracy", shown(scores.get("tta_accuracy"))),
        (f"accuracy on {sentences.training_images(data)}", "train_accuracy", words.percent(train["train_accuracy"])),
        ("wrong test images", "wrong", f"{scores['wrong']:,}" if "wrong" in stated else ""),
        ("training images", "train_images", f"{train['train_images']:,}"),
        ("epochs", "epochs", str(data.params["epochs"])),
        ("parameters", "parameters", f"{train['parameters']:,}"),
    ]
    compared = [(label, shown(stated.get(key)), here) for label, key, here in rows if here]
    return {
        "opening": sentences.opening(data, name),
        "verdict": sentences.verdict(scores, stated, name),
        "compared": compared,
    }


def training(data: Data, source: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, the course of the training and its log, next to the source's."""
    params, history = data.params, data.tables["history"]
    rows = [(label, sentences.describe(params[key])) for key, label in SETTINGS.items()]
    rows += [("highest learning rate", f"{data.files['train']['lr_max']:.3g}"), ("seed", str(params["seed"]))]
    log, of_source = [], source.get("log", [])
    for number in range(max(len(history), len(of_source))):
        row = history.iloc[number] if number < len(history) else None
        ours = [""] * 5
        if row is not None:
            losses = [f"{row[name]:.3f}" for name in ("train_loss", "val_loss")]
            accuracies = [words.percent(row[name], 1) for name in ("train_accuracy", "val_accuracy")]
            ours = [f"{row['lr']:.3g}", losses[0], accuracies[0], losses[1], accuracies[1]]
        theirs = of_source[number] if number < len(of_source) else None
        log.append([str(number + 1), *ours, *([shown(theirs, 1)] if of_source else [])])
    columns = ["epoch", "learning rate at its end", "training loss", "training accuracy"]
    columns += [f"{data.followed} loss", f"{data.followed} accuracy"]
    told = [
        words.training(data.files["train"], params),
        sentences.rounding(data),
        sentences.progress(history, data.followed),
    ]
    return {
        "settings": [(label, text) for label, text in rows if text],
        "training_words": " ".join(filter(None, told)),
        "range_words": words.range_test(data.files["lr_find"], data.files["train"]),
        "followed": data.followed,
        "log_head": [*columns, "the source's test accuracy"] if of_source else columns,
        "log": log,
    }


def test_images(data: Data) -> dict[str, Any]:
    """What the network does on the test images, class by class, and what its mistakes have in common."""
    scores, by_class, reliability = data.files["evaluate"], data.tables["class_accuracy"], data.tables["reliability"]
    counts = mistakes.confusion_counts(data.tables["confusion"])
    confidence = float((reliability["confidence"] * reliability["images"]).sum() / reliability["images"].sum())
    rows = []
    for name, accuracy in zip(by_class["class"], by_class["accuracy"], strict=True):
        wrong = counts.loc[name].drop(name)
        most = list(wrong.index[wrong == wrong.max()])
        taken = f"{words.listed(most)} ({wrong.max():,}{' each' * (len(most) > 1)})" if wrong.max() else ""
        rows.append((name, f"{counts.loc[name].sum():,}", words.percent(accuracy, 1), taken))
    top = []
    if "top5_accuracy" in scores:  # with more than five classes
        share = scores["top5_accuracy"]
        which = "all images" if share == 1 else f"{words.percent(share)} of the images"
        top = [f"The network ranks the true class among the five most likely for {which}."]
    return {
        "result_words": " ".join([words.result(scores), *top, words.calibration(scores, confidence)]),
        "weakest_words": words.weakest(by_class),
        "classes": rows,
        "mistakes": [text for text in mistakes.paragraphs(counts, data.tables["mistakes"]) if text],
    }


def rest(data: Data) -> dict[str, Any]:
    """Data, network, pictures and the facts of the run."""
    params, stats, run = data.params, data.files["stats"], data.files["run"]
    gradcam = params["gradcam"]
    card = data.files["model"]
    return {
        "data_words": sentences.data_words(data),
        "channels": list(stats["mean"]),
        "pixels": [
            (label, *(f"{value:.4f}" for value in stats[key].values()))
            for label, key in (("mean", "mean"), ("standard deviation", "std"))
        ],
        "network_words": sentences.network_words(data),
        "summary": data.summary,
        "dataset": sentences.dataset(params),
        "most_mistakes": shown_mistakes(run["image_size"]),
        "heatmaps": f"{METHODS[gradcam['method']]} heatmaps of {words.listed(gradcam['layers'])}",
        "run": run_facts(run, card),
        "parts": [
            (
                "{} to {}".format(*part["epochs"]),
                sentences.environment_words(part["environment"]) + sentences.differing(part, card),
            )
            for part in card.get("trained_on", [])
        ],
    }


def run_facts(run: Mapping[str, Any], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = run["machine"]
    if re.fullmatch("[A-Z]", machine):
        machine = f"[{machine}](../benchmarks/README.md#machines)"
    rows = [("commit", run["commit"][:7]), ("machine", machine)]
    rows += [("environment", sentences.environment_words(card["environment"]))]
    if "minutes" in run:
        low, high = run["images_per_second"]
        minutes = f"{run['minutes']:,.{0 if run['minutes'] >= 10 else 1}f}"
        rows += [("minutes of training, with validation", minutes)]
        rows += [("images a second, with validation, by epoch", f"{low:,} to {high:,}")]
    rows += [("SHA-256 of the weights", card["sha256"])]
    return [(name, value) for name, value in rows if value]


def shown(value: float | None, digits: int = 2) -> str:
    """An accuracy as a percentage, a count with thousands, nothing for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else words.percent(value, digits)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in (columns, *rows))
    return "\n".join([head, "|---" * len(columns) + "|", *lines])


def wrap(text: str, start: str = "") -> str:
    """The paragraph in lines of at most WIDTH characters; `start` stands before the first of them."""
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
