"""What the files promise each other: stages, dvc.yaml, params.yaml, recipes and imports agree to the letter."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from projects import PIPELINE, ROOT, STAGES, outputs

from cifar.config.params import Declared, check_params, load_params, read_yaml
from cifar.config.schema import Params
from cifar.results.vega import CHARTS

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CODE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("cifar", "stages", "recipes", "benchmarks")
    for path in ROOT.glob(f"{folder}/**/*.py")
}
MODULES = {module: path for module, path in CODE.items() if module.startswith("cifar.") and path.stem != "__init__"}
ROOMS = ["system", "config", "data", "nn", "results", "training"]  # from the lowest up


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, lazily or for types too; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def project_modules(path: Path) -> set[str]:
    return imports(path) & MODULES.keys()


def closure(path: Path) -> set[Path]:
    """The project modules that a file imports, directly or through others."""
    found, ahead = set(), project_modules(path)
    while ahead:
        module = ahead.pop()
        found.add(MODULES[module])
        ahead |= {new for new in project_modules(MODULES[module]) if MODULES[new] not in found}
    return found


def is_code(dep: str) -> bool:
    """Is it a file of the project, not one that a stage makes?"""
    return dep.startswith((".dvc/", "cifar/", "stages/"))


def test_every_stage_is_a_file_and_an_entry_of_dvc_yaml_in_reading_order():
    assert list(PIPELINE) == STAGES
    assert {path.stem for path in ROOT.glob("stages/*.py")} == {*STAGES, "__init__"}
    assert [PIPELINE[stage]["cmd"] for stage in STAGES] == [f"python -m stages.{stage}" for stage in STAGES]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_deps_are_what_it_imports_no_more_and_no_less(stage):
    script = ROOT / f"stages/{stage}.py"
    expected = {str(path.relative_to(ROOT)) for path in {script, *closure(script)}}
    assert {dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")} == expected, "run `make deps`"


def test_the_report_depends_on_its_template_its_looks_and_the_templates_of_its_charts():
    templates = {f".dvc/plots/{chart.template}.json" for chart in CHARTS.values()}
    page = {f"cifar/results/{name}" for name in ("base.html", "macros.html", "page.html", "page.css", "page.js")}
    assert all((ROOT / path).is_file() for path in page)
    assert {dep for dep in PIPELINE["report"]["deps"] if is_code(dep) and not dep.endswith(".py")} == templates | page


def test_make_deps_leaves_all_but_the_code_as_it_is(tmp_path):
    for folder in ("stages", "cifar"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    text = (ROOT / "dvc.yaml").read_text()
    start, line = text.index("  gradcam:"), "    - cifar/data/splits.py\n"
    scrambled = text[:start] + text[start:].replace(line, "    - stages/no_more.py\n", 1)
    assert line in text[start:] and scrambled.count("#") == text.count("#") > 1
    (tmp_path / "dvc.yaml").write_text(scrambled)
    subprocess.run([sys.executable, ROOT / ".dvc/deps.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "dvc.yaml").read_text() == text


def test_packages_hold_a_docstring_only_and_are_therefore_no_deps():
    for path in [
        ROOT / "stages/__init__.py",
        ROOT / "cifar/__init__.py",
        *(ROOT / f"cifar/{room}/__init__.py" for room in ROOMS),
    ]:
        body = parse(path).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def test_rooms_import_downwards_only():
    assert {path.parent.name for path in ROOT.glob("cifar/*/__init__.py")} == set(ROOMS)
    for module, path in MODULES.items():
        room = module.split(".")[1]
        if room == "__main__":  # the commands, which stand above all rooms
            continue
        below = ROOMS[: ROOMS.index(room) + 1]
        assert {name.split(".")[1] for name in project_modules(path)} <= set(below), module


def test_the_data_set_is_read_again_when_a_picture_changes():
    assert "data/images" in PIPELINE["download"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_at_most_80_lines(stage):
    assert len((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_functions_take_at_most_four_arguments_by_position():
    """The `forward` of a torch.autograd.Function is exempt: PyTorch passes it everything by position."""
    checked = 0
    for path in CODE.values():
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            is_autograd = getattr(node, "name", "") in ("forward", "backward") and names[0] in ("ctx", "context")
            checked += 1
            by_position = [name for name in names if name not in ("self", "cls")]
            assert is_autograd or len(by_position) <= 4, f"{path}:{node.lineno} takes {', '.join(by_position)}"
    assert checked > 100


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_begins_with_start_stage_and_ends_with_run(stage):
    """`start_stage` handles signals while the imports below it take seconds, so it comes before them."""
    _, first, start, *_, last = parse(ROOT / f"stages/{stage}.py").body
    assert ast.unparse(first) == "from cifar.system.stage import start_stage"
    assert ast.unparse(start) == "start_stage(__name__)"
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run(main)"


def test_every_stage_has_a_description_that_dvc_shows_whole():
    assert all(10 < len(PIPELINE[stage]["desc"]) <= 80 for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_params_are_what_it_reads_no_more_and_no_less(stage):
    tree = parse(ROOT / f"stages/{stage}.py")
    attributes = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    read = {node.attr for node in attributes if node.value.id == "params"} - vars(Declared).keys()
    loads = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params"
    ]
    declared = PIPELINE[stage].get("params", [])
    if stage == "report":  # it shows all params but the mirrors
        read = Params.model_fields.keys() - {"mirrors"}
    assert set(declared) == read and len(declared) == len(read)
    assert [ast.literal_eval(load.args[0]) for load in loads] == ([stage] if declared else [])


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_keys_of_params_yaml(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_params(stage).values().keys() == set(PIPELINE[stage].get("params", []))


READS = {  # whose outputs each stage reads, as the table in docs/layout.md has it
    "download": set(),
    "stats": {"download"},
    "lr_find": {"download", "stats"},
    "train": {"download", "stats", "lr_find"},
    "evaluate": {"download", "stats", "train"},
    "misclassified": {"download", "evaluate"},
    "gradcam": {"download", "train", "evaluate", "misclassified"},
    "export": {"download", "train"},
    "report": {"download", "stats", "lr_find", "train", "evaluate", "misclassified", "gradcam"},
}


@pytest.mark.parametrize("stage", STAGES)
def test_data_flows_from_stage_to_stage_as_the_contract_says(stage):
    artifacts = [dep for dep in PIPELINE[stage]["deps"] if not is_code(dep) and dep != "data/images"]  # the user's own
    makers = {
        dep: maker for dep in artifacts for maker in STAGES for out in outputs(maker) if f"{dep}/".startswith(f"{out}/")
    }
    assert makers.keys() == set(artifacts), "a dep that no stage makes"
    assert set(makers.values()) == READS[stage]
    assert all(STAGES.index(maker) < STAGES.index(stage) for maker in makers.values())


def test_small_results_are_in_git_and_pictures_of_the_data_set_are_not():
    for stage in STAGES:
        for kind in ("metrics", "plots"):
            for entry in PIPELINE[stage].get(kind, []):
                path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                shows_images = path.endswith(".png") and stage != "lr_find"
                assert options.get("cache", True) is shows_images, path
    page, *charts = PIPELINE["report"]["outs"]
    assert page == "report/index.html"
    for chart in charts:
        ((path, options),) = chart.items()
        assert path.endswith(".svg") and options == {"cache": False}


def test_the_plot_templates_exist():
    named = {
        options["template"]
        for stage in STAGES
        for entry in PIPELINE[stage].get("plots", [])
        if isinstance(entry, dict)
        for options in entry.values()
        if "template" in options
    }
    named |= {plot["template"] for plots in read_yaml(ROOT / "dvc.yaml")["plots"] for plot in plots.values()}
    ours = {path.stem for path in ROOT.glob(".dvc/plots/*.json")}
    assert ours <= named <= ours | {"simple", "linear", "confusion"}


def test_the_code_has_no_import_cycles_and_nothing_imports_a_command_line():
    imported = {module: imports(path) & CODE.keys() for module, path in CODE.items()}
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError, which names the modules of a cycle
    assert {"cifar.nn.networks", "stages.train", "recipes.compare", "benchmarks.gpu.plan"} <= imported.keys()
    assert not [module for module, names in imported.items() if any(name.endswith(".__main__") for name in names)]


def test_the_library_knows_no_stage_no_recipe_and_no_benchmark():
    for path in MODULES.values():
        assert not {name.split(".")[0] for name in imports(path)} & {"stages", "recipes", "benchmarks"}, path


def test_only_stages_load_their_params():
    for module, path in MODULES.items():
        assert module == "cifar.config.params" or "cifar.config.params.load_params" not in imports(path), path


@pytest.mark.parametrize("stage", ["download", "train", "evaluate", "export"])
def test_stages_that_draw_nothing_import_no_plotting(stage):
    script = ROOT / f"stages/{stage}.py"
    assert not any(name.split(".")[0] == "matplotlib" for path in {script, *closure(script)} for name in imports(path))


def test_every_package_that_the_code_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {re.match(r"[\w.-]+", entry)[0] for entry in project["project"]["dependencies"]}
    files = [*MODULES.values(), *ROOT.glob("stages/*.py"), *ROOT.glob("recipes/*.py")]
    packages = {name.split(".")[0] for path in files for name in imports(path)}
    packages -= {"cifar", "recipes", "stages", *sys.stdlib_module_names}
    distributions = packages_distributions()
    assert not {package for package in packages if not declared & {*map(str.lower, distributions[package])}}


def test_constraints_pin_every_dependency_by_name_and_version_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pins = {line.split("==")[0].lower().replace("_", "-").replace(".", "-"): line.split("==")[1] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *sum(project["dependency-groups"].values(), [])]
    names = {re.match(r"[\w.-]+", entry)[0].replace(".", "-") for entry in wanted}
    assert names <= pins.keys()
    assert (pins["torch"], pins["torchvision"], pins["albumentations"], pins["dvc"]) == (
        "2.14.1",
        "0.29.2",
        "2.0.8",
        "3.67.1",
    )
    assert "albumentationsx" not in pins and "opencv-python" not in pins


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_has_the_keys_of_params_yaml(recipe):
    values = read_yaml(recipe)
    check_params(values, recipe.name)
    assert list(values) == list(read_yaml(ROOT / "params.yaml"))


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *RECIPES], ids=lambda path: path.stem)
def test_params_survive_dvcs_own_rewriting_unchanged(path, tmp_path):
    original, copy = path.read_text(), tmp_path / "params.yaml"
    copy.write_text(original)
    with modify_yaml(copy):
        pass
    assert copy.read_text() == original

    apply_overrides(copy, ["seed=17"])  # what `dvc exp run -S seed=17` does
    before, after = original.splitlines(), copy.read_text().splitlines()
    assert [line for line in before if line not in after] == [line for line in before if line.startswith("seed: ")]
    assert [line.split("#")[0].rstrip() for line in after if line not in before] == ["seed: 17"]


@pytest.mark.parametrize("change", ["mirrors=[]", "augment=[]", "gradcam.layers=[layer2,layer3]"])
@pytest.mark.parametrize("path", [ROOT / "params.yaml", *RECIPES], ids=lambda path: path.stem)
def test_a_list_can_be_replaced_by_dvc(path, change, tmp_path):
    """ruamel.yaml loses a line break when it empties a list whose key has a comment beside it."""
    copy = tmp_path / "params.yaml"
    copy.write_text(path.read_text())
    apply_overrides(copy, [change])
    assert check_params(read_yaml(copy), path.name)


def test_the_tree_names_every_file_of_the_code_and_none_that_is_not_there():
    tree = (ROOT / "docs/layout.md").read_text()
    for folder in ("cifar", "stages", "recipes"):
        listing = re.search(rf"^{folder}/.*\n((?:  .*\n)+)", tree, re.MULTILINE)
        assert listing, f"docs/layout.md has no listing of {folder}/"
        named, room = set(), ""
        for indent, name in re.findall(r"^(  +)(\S+)  ", listing[1], re.MULTILINE):
            room = name if name.endswith("/") else room if len(indent) > 2 else ""
            named.add(room + name if room != name else name)
        files = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        there = {path.relative_to(ROOT / folder).as_posix() for path in files if path.stem != "__init__"}
        assert {name for name in named if not name.endswith("/")} == there
