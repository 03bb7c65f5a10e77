"""The documents say what is so: their links, paths, commands, tables and figures agree with the repository."""

import itertools
import json
import re
import shlex
import statistics
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from projects import PIPELINE, ROOT, outputs
from specs import CIFAR

from cifar.__main__ import parse as parse_cifar
from cifar.config.params import check_params, read_yaml
from cifar.nn.networks import build_network
from cifar.system.errors import InputError
from recipes.__main__ import parse

TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
DOCUMENTS = sorted(ROOT / name for name in TRACKED.stdout.split())
README = (ROOT / "README.md").read_text()
LAYOUT = (ROOT / "docs/layout.md").read_text()
RESULTS = (ROOT / "docs/results.md").read_text()
RECIPES = sorted(path.stem for path in ROOT.glob("recipes/*.yaml"))

over_documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def commands(document: Path) -> list[tuple[list[str], str]]:
    """The words of each command in a console block, without variables set before it; and the line that follows it."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
        for line, answer in itertools.pairwise([*block.splitlines(), ""]):
            for part in re.sub(r"\s#.*", "", line.removeprefix("$ ")).split(" && ") if line.startswith("$ ") else []:
                words = shlex.split(part)
                found.append(([*itertools.dropwhile(lambda word: re.match(r"[A-Z_0-9]+=", word), words)], answer))
    return found


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without backticks, and without the rows that head them."""
    section = text.split(f"\n{heading}\n")[1].split("\n#")[0]
    lines = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line] for line in lines if not line[0].startswith("---")]


def test_readme_has_at_most_120_lines_and_a_picture_clone_and_demo_in_the_first_40():
    lines = README.splitlines()
    assert len(lines) <= 120
    start = "\n".join(lines[:40])
    assert "![" in start and "\n$ git clone " in start and "\n$ make demo\n" in start


@over_documents
def test_every_local_link_and_picture_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"https?://", target):
            name, _, anchor = target.partition("#")
            path = document.parent / name if name else document
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


@over_documents
def test_every_path_in_the_repository_exists(document):
    """Those in backticks that begin with a folder of the repository; a run makes some of them."""
    folders = "cifar|stages|recipes|docs|tests|benchmarks|metrics|plots|\\.dvc|\\.ci|\\.github"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", document.read_text()):
        assert (ROOT / path).exists() or path in set().union(*map(outputs, PIPELINE)), path


@over_documents
def test_every_make_target_and_module_exists(document):
    text = document.read_text()
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = " ".join(re.findall(r"`+[^`]+`+", text))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets
    for module in re.findall(r"\bpython -m ([\w.]+)", code):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert module in ("stages.", "pytest", "dvc", "pip") or path.with_suffix(".py").exists() or path.is_dir(), (
            module
        )


@over_documents
def test_every_command_of_dvc_and_ours_can_be_parsed_and_names_recipes_that_exist(document):
    for words, _ in commands(document):
        if words[0] == "dvc":
            get_main_parser().parse_args(words[1:])
        elif words[:3] == ["python", "-m", "recipes"]:
            arguments = parse(words[3:])
            assert {*getattr(arguments, "recipes", []), getattr(arguments, "recipe", "fast")} <= set(RECIPES)
        elif words[:3] == ["python", "-m", "cifar"]:
            parse_cifar(words[3:])


def test_every_experiment_is_accepted_except_the_one_that_is_shown_refused(tmp_path):
    refused = 0
    for words, answer in itertools.chain(*map(commands, DOCUMENTS)):
        changes = [change for flag, change in itertools.pairwise(words) if flag == "-S"]
        recipes = [ROOT / f"recipes/{word}.yaml" for word in words if word in RECIPES]
        for path in recipes or [ROOT / "params.yaml"]:
            copy = tmp_path / "params.yaml"
            copy.write_text(path.read_text())
            for sweep in get_hydra_sweeps({"params.yaml": changes}) if changes else []:
                apply_overrides(copy, sweep["params.yaml"])
                if answer.startswith("error: "):
                    with pytest.raises(InputError) as caught:
                        check_params(read_yaml(copy), "params.yaml")
                    assert answer == f"error: {caught.value}"
                    refused += 1
                else:
                    check_params(read_yaml(copy), " ".join(words))
    assert refused == 1


def test_the_table_of_stages_and_the_diagram_are_the_pipeline():
    assert [row[0] for row in rows(LAYOUT, "## The stages")][1:] == list(PIPELINE)
    lines = README.split("```mermaid\n")[1].split("```")[0].splitlines()[1:]
    chains = [re.split(r" -- [\w ,]+ --> ", line.strip()) for line in lines]
    arrows = [arrow for chain in chains for arrow in itertools.pairwise(chain)]
    main = [stage for stage in PIPELINE if stage != "export"]  # on which no stage depends
    assert arrows == [*itertools.pairwise(main), ("train", "export")]
    for before, after in arrows:
        deps = PIPELINE[after]["deps"]
        assert any(f"{dep}/".startswith(f"{out}/") for dep in deps for out in outputs(before)), (before, after)


def test_the_files_named_where_to_add_hold_what_they_are_said_to_hold():
    items = re.findall(r"^\d\. (.+(?:\n   .+)*)", LAYOUT.split("\n## Where to add\n")[1], re.MULTILINE)
    checked = 0
    for code in (re.findall(r"`([^`]+)`", item) for item in items):
        files = [ROOT / name for name in code if re.fullmatch(r"[\w/]+\.(py|yaml)", name)]
        names = [name for name in code if re.fullmatch(r"_?[A-Za-z]\w+(\.\w+)?", name) and "." not in name]
        text = "".join(path.read_text() for path in files)
        for name in names if files else []:
            assert re.search(rf"\b{name}\b", text) or (ROOT / "recipes" / name).exists(), (name, files)
            checked += 1
    assert checked > 10


def test_readmes_table_of_recipes_equals_the_recipes():
    table = rows(README, "## Recipes")[1:]
    names = [re.sub(r"\[`?([\w-]+)`?\]\(.*\)", r"\1", row[0]) for row in table]
    assert sorted(names) == sorted(set(RECIPES) - {"demo", "fast", "best"})
    for name, (_, _, parameters, epochs, images, *_) in zip(names, table, strict=True):
        recipe = check_params(read_yaml(ROOT / f"recipes/{name}.yaml"), name)
        with torch.device("meta"):  # shapes only, no numbers
            network = build_network(recipe.model, CIFAR, seed=0)
        count = sum(weights.numel() for weights in network.parameters())
        stated = f"{count:,}", str(recipe.epochs), f"{50_000 - recipe.val_size:,}"
        assert stated == (parameters, epochs, images), name


def test_readmes_table_of_results_has_the_epochs_of_the_params():
    results = [row for row in rows(README, "## Real CIFAR-10") if row[1][0].isdigit()]
    assert len(results) == 4
    for name, images, epochs, *_ in results:
        words = name.replace("`", "").split(", ")
        params = read_yaml(ROOT / (f"recipes/{words[0]}.yaml" if words[0] in RECIPES else "params.yaml"))
        val_size = int(words[1].removeprefix("val_size=")) if words[1:] else params["val_size"]
        assert (int(images.replace(",", "")), int(epochs)) == (50_000 - val_size, params["epochs"]), name


def test_the_page_on_recipes_names_each_of_them():
    assert sorted(re.findall(r"\]\(([\w-]+)\.yaml\)", (ROOT / "recipes/README.md").read_text())) == RECIPES


def test_the_demo_ends_with_the_figures_that_a_run_makes_and_where_the_rest_is(project):
    (block,) = re.findall(r"^```\n(Path .*?)^```$", README, re.M | re.S)
    heads, figures, *rest = block.splitlines()
    scores = json.loads((project.folder / "metrics/evaluate.json").read_text())
    assert heads.split()[1:] == sorted(scores)
    found = dict(zip(heads.split(), figures.split(), strict=True))
    demo = json.loads((ROOT / "docs/data/demo/evaluate.json").read_text())
    assert {name: float(figure) for name, figure in list(found.items())[1:]} == {
        name: round(value, 5) for name, value in demo.items()
    }
    pictures = [path for stage in PIPELINE for path in outputs(stage) if path.endswith(".png")]
    assert rest == ["", "Report: .demo/report/index.html", f"Pictures: {len(pictures)} in .demo/plots/"]


def test_every_accuracy_in_readme_is_in_the_results():
    for table in ("## Real CIFAR-10", "## Recipes"):
        for cell in itertools.chain(*rows(README, table)[1:]):
            for accuracy in re.findall(r"0\.\d{4}(?: ± 0\.\d{4})?", cell):
                assert accuracy in RESULTS or accuracy == "0.9404 ± 0.0015", accuracy  # its four runs are checked below


def test_means_and_deviations_are_those_of_the_runs():
    def stated(values: list[str]) -> str:
        exact = [Decimal(value) for value in values]  # a mean of 0.94045 is no rounding error away from 0.9404
        return f"{statistics.mean(exact):.4f} ± {statistics.stdev(exact):.4f}"

    def by_seed(heading: str) -> list[list[str]]:
        """The columns of a table with a row for each seed and one for the mean, without the seeds."""
        lines = [row for row in rows(RESULTS, heading) if re.fullmatch(r"\d|mean", row[0])]
        return [list(column) for column in zip(*lines, strict=True)][1:]

    default, fast = (
        next(row for row in rows(README, "## Real CIFAR-10") if row[0] == name) for name in ("default", "fast")
    )
    complete = rows(RESULTS, "## The main runs")
    runs = [row[6] for row in complete if row[0].startswith("default") and row[1] == "45,000"]
    assert (len(runs), default[3]) == (4, stated(runs))
    accuracies = by_seed("## The default")[0]
    assert accuracies[-1] == stated(accuracies[:-1])
    columns = by_seed("## fast")  # of each machine: accuracy, that with test-time augmentation, minutes
    plain, augmented = columns[0::3], columns[1::3]
    for column in plain + augmented:
        mean = column.pop()
        assert mean == stated(column)
    assert fast[3:6] == [stated(sum(plain, [])), stated(sum(augmented, [])), str(len(sum(plain, [])))]


def test_the_run_in_dvc_lock_has_the_accuracy_of_its_metrics():
    (row,) = [row for row in rows(RESULTS, "## The main runs") if row[0] == "default, run 7 below, in dvc.lock"]
    assert float(row[6]) == json.loads((ROOT / "metrics/evaluate.json").read_text())["accuracy"]
