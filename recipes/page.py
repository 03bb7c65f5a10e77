"""A page for each recipe, docs/<recipe>.md: what was asked, what a finished run came to, and how both compare.

The page is made from docs/data/<recipe>/, which holds the run's small files, and from recipes/sources/<recipe>.yaml. It
shows no image of the data set.
"""

import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cifar.config.params import read_yaml
from cifar.config.schema import IMAGE_SIZE
from cifar.results import words
from cifar.results.heatmaps import METHODS, shown_mistakes
from cifar.results.vega import CHARTS, draw
from cifar.system.device import differences
from cifar.system.errors import InputError, next_move
from cifar.system.files import read_json, write_text
from recipes import mistakes
from recipes.finished import COPIED, DATA, read_table
from recipes.values import flatten

HERE = Path(__file__).parent
NETWORKS = {"resnet18": "ResNet18", "custom_resnet": "The custom ResNet", "airnet": "AirNet"}
NORMS = {"batch": "batch norm", "layer": "layer norm", "group": "group norm"}
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


class Data(NamedTuple):
    """The content of docs/data/<recipe>/: JSON files and tables by name, the params, and the network's layers."""

    files: dict[str, dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    params: dict[str, Any]
    summary: str

    @property
    def has_validation(self) -> bool:
        return bool(self.params["val_size"])

    @property
    def followed(self) -> str:
        """The images that the curves show next to the training images."""
        return "validation" if self.has_validation else "test"


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
        recipe_words=recipe_words(params, data, today),
        again=command_for(recipe, data.files["run"]["changes"]),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def command_for(recipe: str, changes: Sequence[str]) -> str:
    """What makes such a run again."""
    ours = "dvc exp run" if changes else "dvc repro"
    start = ours if recipe == "default" else f"python -m recipes run {recipe}"
    return " ".join([start, *(f"-S {shlex.quote(change)}" for change in changes)])


def load(folder: Path) -> Data:
    paths = [folder / name for name in (*COPIED, "confusion.csv", "run.json")]
    if lacking := [path.name for path in paths if not path.is_file()]:
        raise InputError(
            f"{folder}/ lacks {', '.join(lacking)}; name the folder of a finished run too, to copy them from"
        )
    with next_move(f"bring {folder}/ back, or name the folder of a finished run too"):
        return Data(
            {path.stem: read_json(path) for path in paths if path.suffix == ".json"},
            {path.stem: read_table(path) for path in paths if path.suffix == ".csv"},
            read_yaml(folder / "params.yaml"),
            (folder / "summary.txt").read_text(encoding="utf-8").rstrip(),
        )


def head(data: Data, source: Mapping[str, Any]) -> dict[str, Any]:
    """What was reached, and what the source states."""
    scores, train = data.files["evaluate"], data.files["train"]
    stated = source.get("stated", {})
    name = "tta_accuracy" if "tta_accuracy" in stated and "tta_accuracy" in scores else "accuracy"
    epochs = data.params["epochs"]
    opening = (
        f"{network(data.params)} reaches **{words.percent(scores[name])}** on the {scores['images']:,} test images of "
        f"{dataset(data.params)}{' with test-time augmentation' if name == 'tta_accuracy' else ''} "
        f"after {epochs} epoch{'s' * (epochs > 1)}."
    )
    rows = [
        ("test accuracy", "accuracy", words.percent(scores["accuracy"])),
        ("test accuracy with test-time augmentation", "tta_accuracy", shown(scores.get("tta_accuracy"))),
        (f"accuracy on {training_images(data)}", "train_accuracy", words.percent(train["train_accuracy"])),
        ("wrong test images", "wrong", f"{scores['wrong']:,}" if "wrong" in stated else ""),
        ("training images", "train_images", f"{train['train_images']:,}"),
        ("epochs", "epochs", str(epochs)),
        ("parameters", "parameters", f"{train['parameters']:,}"),
    ]
    compared = [(label, shown(stated.get(key)), here) for label, key, here in rows if here]
    return {"opening": opening, "verdict": verdict(scores, stated, name), "compared": compared}


def verdict(scores: Mapping[str, float], stated: Mapping[str, float], name: str) -> str:
    """What the source asks for and states, and how far this run is from it; empty without a source.

    Both accuracies are on the same test images, so an interval for other test images would not tell what is chance.
    """
    reached, sentences = scores[name], []
    if "target" in stated:
        does = "reaches" if reached >= stated["target"] else "does not reach"
        sentences += [f"The source asks for at least {words.percent(stated['target'], 0)}, which this run {does}."]
    if name not in stated:
        return " ".join(sentences)
    mean = f", the mean of {stated['runs']} runs" if "runs" in stated else ""
    sentences += [f"The source {'also ' * bool(sentences)}reports an accuracy of {words.percent(stated[name])}{mean}."]
    points = round(100 * (reached - stated[name]), 2)
    if not points:
        return " ".join([*sentences, "This run has the same accuracy."])
    this = f"This run is {abs(points):.2f} points {'higher' if points > 0 else 'lower'}"
    return " ".join([*sentences, f"{this}; one run cannot show how much of this is chance."])


def training_images(data: Data) -> str:
    """The images of which `train_accuracy` is."""
    if data.params["train_scores"] == "eval":
        return "the training images"
    if data.params["filter"]["name"] == "proxy":
        return "the hardest training images of each batch"
    return "augmented training images" if data.params["augment"] else "the training images"


def training(data: Data, source: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, the course of the training and its log, next to the source's."""
    params, history = data.params, data.tables["history"]
    rows = [(label, describe(params[key])) for key, label in SETTINGS.items()]
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
    return {
        "settings": [(label, text) for label, text in rows if text],
        "training_words": " ".join(
            filter(
                None, [words.training(data.files["train"], params), rounding(data), progress(history, data.followed)]
            )
        ),
        "range_words": words.range_test(data.files["lr_find"], data.files["train"]),
        "followed": data.followed,
        "log_head": [*columns, "the source's test accuracy"] if of_source else columns,
        "log": log,
    }


def rounding(data: Data) -> str:
    """Why the test accuracy of the last epoch may differ from that of `evaluate`; empty where it does not."""
    in_training, after = data.files["train"]["val_accuracy"], data.files["evaluate"]["accuracy"]
    if data.has_validation or in_training == after or data.files["model"]["environment"]["precision"] != "bfloat16":
        return ""
    return f"This test accuracy is computed in bfloat16; in float32 it is {words.percent(after)}."


def progress(history: pd.DataFrame, followed: str) -> str:
    """How much the last quarter of the epochs brought, and which epoch was best if that was not the last."""
    epochs = len(history)
    if epochs < 4:
        return ""
    before, last = history.iloc[math.ceil(epochs * 0.75) - 1], history.iloc[-1]
    gain = round(100 * (last["val_accuracy"] - before["val_accuracy"]), 1)
    moved = f"{'rose' if gain > 0 else 'fell'} by {abs(gain):.1f} points" if gain else "stayed the same"
    start, end = (f"{row['lr']:.3g}" for row in (before, last))
    rate = f"stayed at {end}" if start == end else f"went from {start} to {end}"
    span = f"From epoch {int(before['epoch'])} to {int(last['epoch'])}"
    text = f"{span} the {followed} accuracy {moved}, while the learning rate {rate}."
    best = history.loc[history["val_accuracy"].idxmax()]
    if best["val_accuracy"] > last["val_accuracy"]:
        text += f" It was highest after epoch {int(best['epoch'])}, at {words.percent(best['val_accuracy'])}."
    return text


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
        "data_words": data_words(data),
        "channels": list(stats["mean"]),
        "pixels": [
            (label, *(f"{value:.4f}" for value in stats[key].values()))
            for label, key in (("mean", "mean"), ("standard deviation", "std"))
        ],
        "network_words": f"{network(params)} has {data.files['train']['parameters']:,} parameters.",
        "summary": data.summary,
        "dataset": dataset(params),
        "most_mistakes": shown_mistakes(run["image_size"]),
        "heatmaps": f"{METHODS[gradcam['method']]} heatmaps of {words.listed(gradcam['layers'])}",
        "run": run_facts(run, card),
        "parts": [
            ("{} to {}".format(*part["epochs"]), environment_words(part["environment"]) + differing(part, card))
            for part in card.get("trained_on", [])
        ],
    }


def recipe_words(path: Path, data: Data, today: Mapping[str, Any]) -> str:
    """Where the values come from, what the run changed, and what has changed in the recipe since."""
    text = f"[{path}](../{path}) holds every value, with its reason or its source."
    if changes := data.files["run"]["changes"]:
        text += f" This run used {words.listed([f'`{change}`' for change in changes])}."
    left_out = {"mirrors", *(change.lstrip("~+").partition("=")[0] for change in changes)}
    then, now = (flatten(_with_size(values)) for values in (data.params, today))
    different = [key for key in then if key in now and now[key] != then[key]]
    if keys := [f"`{key}`" for key in different if not any(f"{key}.".startswith(f"{one}.") for one in left_out)]:
        text += f" Since this run, {words.listed(keys)} changed in this file."
    return text


def _with_size(values: Any) -> Any:
    """The params with the size in place of `image`, by which an augmentation's argument means it."""
    if isinstance(values, Mapping):
        return {key: _with_size(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_size(value) for value in values]
    return IMAGE_SIZE if values == "image" else values


def data_words(data: Data) -> str:
    stats, counts, size = data.files["stats"], data.tables["class_counts"], data.files["run"]["image_size"]
    each = []
    for split in "train", "test":
        images = counts.loc[counts["split"] == split, "images"]
        each.append(f"{images.min():,}" if images.min() == images.max() else f"{images.min():,} to {images.max():,}")
    names = list(dict.fromkeys(counts["class"]))
    text = (
        f"{dataset(data.params)} has {stats['images']:,} training images and {stats['test_images']:,} test images of "
        f"{size[1]} × {size[0]} pixels. Its {len(names)} classes are {words.listed(names)}. Each has {each[0]} "
        f"training images and {each[1]} test images."
    )
    if data.has_validation:
        return text + f" {data.params['val_size']:,} of the training images are held out for validation."
    return f"{text} No training image is held out: the curves below follow the test images, which decide nothing."


def run_facts(run: Mapping[str, Any], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = run["machine"]
    if re.fullmatch("[A-Z]", machine):
        machine = f"[{machine}](../benchmarks/README.md#machines)"
    rows = [("commit", run["commit"][:7]), ("machine", machine)]
    rows += [("environment", environment_words(card["environment"]))]
    if "minutes" in run:
        low, high = run["images_per_second"]
        minutes = f"{run['minutes']:,.{0 if run['minutes'] >= 10 else 1}f}"
        rows += [("minutes of training, with validation", minutes)]
        rows += [("images a second, with validation, by epoch", f"{low:,} to {high:,}")]
    rows += [("SHA-256 of the weights", card["sha256"])]
    return [(name, value) for name, value in rows if value]


def environment_words(environment: Mapping[str, Any]) -> str:
    threads = environment["threads"]
    kernels = "" if environment["device"].startswith(("NVIDIA", "AMD")) else f" with {environment['cpu_capability']}"
    return (
        f"{environment['device']}{kernels}, {environment['precision']}, {threads} thread{'s' * (threads > 1)}, "
        f"torch {environment['torch']}"
    )


def differing(part: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """What else an environment has that the last one has not."""
    found = differences(part["environment"], card["environment"])
    return f" ({found.replace(', here ', ', at the end ')})" if found else ""


def network(params: Mapping[str, Any]) -> str:
    model = params["model"]
    norm = f" with {NORMS[model['norm']]}" if model.get("norm") in NORMS else ""
    return f"{NETWORKS.get(model['name'], model['name'])}{norm}"


def dataset(params: Mapping[str, Any]) -> str:
    return words.DATASETS.get(params["dataset"], f"`{params['dataset']}`")


def shown(value: float | None, digits: int = 2) -> str:
    """An accuracy as a percentage, a count with thousands, nothing for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else words.percent(value, digits)


def describe(value: Any) -> str:
    """A value of params.yaml for a table: `sgd: momentum 0.9, weight decay 0.0005`; empty for what is off."""
    if isinstance(value, list):
        chances = [f" (p {step['p']})" if step.get("p", 1.0) != 1.0 else "" for step in value]
        return ", ".join(f"{step['name']}{chance}" for step, chance in zip(value, chances, strict=True))
    if not isinstance(value, Mapping):
        return "" if value in (0.0, "none") else str(value)
    if value["name"] == "none":
        return ""
    plain = {key.replace("_", " "): each for key, each in value.items() if key != "name"}
    kept = {
        key: each for key, each in plain.items() if not (each is False or each == "same" or isinstance(each, Mapping))
    }
    told = ", ".join(key if each is True else f"{key} {each}" for key, each in kept.items())
    return f"{value['name']}: {told}" if told else value["name"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in (columns, *rows))
    return "\n".join([head, "|---" * len(columns) + "|", *lines])


def wrap(text: str, start: str = "") -> str:
    """The paragraph in lines of at most WIDTH characters; `start` stands before the first of them."""
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
