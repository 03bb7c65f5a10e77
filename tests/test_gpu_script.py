"""`python -m benchmarks.gpu`: every step on a processor, nothing lost by a time limit, a failing step passed over."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import runs
from benchmarks.gpu.__main__ import TimeIsOver, main, work
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.plan import Step, gpu_tests, outcomes, read_rows
from benchmarks.gpu.programs import running
from benchmarks.gpu.runs import Lab, epoch_speeds
from benchmarks.gpu.summary import summary
from cifar.system.errors import InputError

ROOT = Path(__file__).parents[1]
ABSENT = "dvc", "xdist", "pytorch_grad_cam", "ttach", "psutil"  # from a GPU machine
ABSENT += "torchvision", "onnx", "onnxruntime", "onnxscript", "vl_convert", "dvc_render"
FOREVER = float("inf")
RUNS = ["default", *(f"fast-seed-{seed}" for seed in range(5)), "best-44-epochs"]
RUNS += ["eva4-s8", "eva4-s11", "eva5-s9", "eva6-s8", "resnet18-layernorm", "fast-seed-0-again"]


def call(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The program, writing into `folder`, where no package can be imported that a GPU machine lacks."""
    for name in ABSENT:
        (folder / "absent" / name).mkdir(parents=True)
        (folder / "absent" / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name} here')")
    variables = {"OUT": str(folder / "out"), "TMPDIR": str(folder), "PYTHONPATH": str(folder / "absent")}
    variables |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory) -> tuple[Path, str]:
    """The folder of results of a dry run, and what it printed."""
    folder = tmp_path_factory.mktemp("gpu")
    ended = call(folder, "--dry-run")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "out/dry-run", ended.stdout


@pytest.mark.slow
def test_a_dry_run_does_every_step_without_dvc_in_a_few_small_files(dry_run):
    folder, _ = dry_run
    steps = json.loads((folder / "results.json").read_text())["steps"]
    assert {entry["state"] for entry in steps.values()} == {"done"}
    assert len(steps) == 17
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "runs.zip"]  # of 8 files at most
    assert steps["tests"]["ran"] > 15 and steps["tests"]["failures"] == {}


@pytest.mark.slow
def test_each_run_leaves_history_figures_predictions_and_card_but_no_weights(dry_run):
    with zipfile.ZipFile(dry_run[0] / "runs.zip") as archive:
        names = set(archive.namelist())
        for run in RUNS:
            kept = {"history.csv", "train.json", "evaluate.json", "model.json", "predictions.npz", "params.yaml"}
            assert {f"{run}/{name}" for name in kept} <= names
        assert not [name for name in names if name.endswith((".safetensors", ".pt"))]
        with archive.open("default/predictions.npz") as file:
            assert np.load(file)["logits"].shape == (20, 10)


@pytest.mark.slow
def test_the_dry_run_tells_the_speeds_the_aims_and_whether_bits_repeat(dry_run):
    folder, printed = dry_run
    steps = json.loads((folder / "results.json").read_text())["steps"]
    assert steps["fast, seed 0"]["sha256"] == steps["fast, seed 0, again"]["sha256"]
    assert steps["fast, seed 0"]["sha256"] != steps["fast, seed 1"]["sha256"]
    assert [row["recipe"] for row in steps["speed, compiled"]["rows"]] == ["fast", "best"]
    for told in ("fast twice with seed 0: the same bits", "download to gradcam, the default", "n = 5", "compiling, s"):
        assert told in printed


def test_without_a_gpu_one_line_says_how_to_try_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    with pytest.raises(InputError, match="^PyTorch sees no GPU here; .* --dry-run"):
        main()


def journal_in(folder: Path, device: str = "a GPU") -> Journal:
    return Journal(folder, folder / "earlier", {"device": device})


def at_once(found: dict):
    def begin(tell):
        yield
        return found

    return begin


def fails(tell):
    tell({"known": 1})
    yield
    raise InputError("the network cannot be compiled:\nno compiler")


def never_ends(tell):
    for number in range(10_000):
        tell({"epochs": number})
        yield


def test_a_failing_step_is_recorded_with_its_reason_in_a_line_and_the_next_runs(tmp_path):
    journal = journal_in(tmp_path)
    work([Step("first", fails), Step("second", at_once({"found": 2}))], journal, Lab(tmp_path, True), FOREVER)
    steps = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert steps["first"]["state"] == "failed" and steps["first"]["known"] == 1
    assert steps["first"]["reason"] == "the network cannot be compiled: no compiler"
    assert steps["second"]["state"] == "done" and steps["second"]["found"] == 2
    assert "first: failed, the network cannot be compiled: no compiler" in summary(steps, is_dry=False)


def test_a_time_limit_keeps_what_is_known_and_the_next_call_skips_what_is_done(tmp_path, capsys):
    plan = [Step("quick", at_once({"found": 1}), alone=False), Step("slow", never_ends, alone=False)]
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/log.txt").write_text("epoch 1")
    with pytest.raises(TimeIsOver):
        work(plan, journal_in(tmp_path), Lab(tmp_path, True), time.monotonic() + 3)
    again = journal_in(tmp_path)
    assert again.is_done("quick") and not again.is_done("slow")
    assert again.steps["slow"]["state"] == "stopped" and again.steps["slow"]["epochs"] >= 1
    assert not journal_in(tmp_path, "another GPU").is_done("quick")
    assert zipfile.ZipFile(tmp_path / "runs.zip").read("slow/log.txt") == b"epoch 1"
    capsys.readouterr()
    work([plan[0], Step("slow", at_once({}))], again, Lab(tmp_path, True), FOREVER)
    assert "1 of 2 steps are to do" in capsys.readouterr().out


def test_a_step_that_is_timed_runs_alone(tmp_path):
    running_now, seen = set(), {}

    def noting(name: str, looks: int):
        def begin(tell):
            running_now.add(name)
            for _ in range(looks):
                seen[name] = seen.get(name, set()) | running_now
                yield
            running_now.remove(name)
            return {}

        return begin

    plan = [("a", 4, False), ("b", 2, False), ("c", 2, False), ("timed", 2, True), ("d", 1, False)]
    steps = [Step(name, noting(name, looks), alone=alone) for name, looks, alone in plan]
    work(steps, journal_in(tmp_path), Lab(tmp_path, True), FOREVER)
    assert seen["timed"] == {"timed"} and seen["d"] == {"d"}
    assert "b" in seen["a"] and seen["c"] == {"a", "c"}


def test_results_of_an_earlier_call_are_taken_from_the_projects_folder(tmp_path):
    journal_in(tmp_path / "earlier").record("quick", "done", found=1)
    assert journal_in(tmp_path).steps["quick"]["found"] == 1


@pytest.mark.parametrize("damage", ["{", "[]", '{"steps": [1]}', '{"steps": {"a": {"state": "odd"}}}'])
def test_damaged_results_are_set_aside_with_one_line(tmp_path, capsys, damage):
    (tmp_path / "results.json").write_text(damage)
    assert journal_in(tmp_path).steps == {}
    assert (tmp_path / "results.json.damaged").read_text() == damage
    printed = capsys.readouterr().out
    assert "results.json is damaged" in printed and printed.count("\n") == 1


def test_files_of_a_run_take_the_place_of_those_of_its_earlier_try(tmp_path):
    journal, file = journal_in(tmp_path), tmp_path / "file"
    for run, content in (("a", "first"), ("b", "other"), ("a", "second")):
        file.write_text(content)
        journal.keep(run, {"history.csv": file})
    with zipfile.ZipFile(tmp_path / "runs.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "b/history.csv": b"other",
            "a/history.csv": b"second",
        }


@pytest.mark.parametrize("damage", ["cut off", "other bytes"])
def test_a_damaged_archive_of_runs_is_set_aside_with_one_line(tmp_path, capsys, damage):
    journal, file, archive = journal_in(tmp_path), tmp_path / "file", tmp_path / "runs.zip"
    file.write_text("epoch,loss\n" * 100)
    journal.keep("a", {"history.csv": file})
    whole = archive.read_bytes()
    start = 30 + len("a/history.csv")  # a zip's local header has 30 bytes, then the name
    damaged = whole[:start] if damage == "cut off" else whole[:start] + b"\xff" * 8 + whole[start + 8 :]
    archive.write_bytes(damaged)
    journal.keep("c", {"history.csv": file})
    assert "runs.zip is damaged" in capsys.readouterr().out
    assert zipfile.ZipFile(archive).namelist() == ["c/history.csv"]
    assert (tmp_path / "runs.zip.damaged").read_bytes() == damaged


def test_a_program_is_stopped_with_the_one_that_waits_for_it_and_fails_with_its_last_line(tmp_path):
    log = tmp_path / "log"
    waiting = running(["http.server", "--bind", "127.0.0.1", "0"], tmp_path, log, limit=100, forked=False)
    next(waiting)
    program = waiting.gi_frame.f_locals["program"]
    waiting.close()
    assert program.poll() is not None
    with pytest.raises(InputError, match="json.tool ended with status 2: .*error: .*nothing-here"):
        list(running(["json.tool", "nothing-here"], tmp_path, log, limit=100, forked=False))
    with pytest.raises(InputError, match="http.server took more than 0.1 s"):
        for _ in running(["http.server", "--bind", "127.0.0.1", "0"], tmp_path, log, limit=0.1, forked=False):
            pass


def test_speeds_are_read_from_what_train_prints_the_last_of_an_epoch_that_ran_twice():
    line = "epoch {:2d}/12  train loss 1.0 accuracy 0.5  val loss 1.0 accuracy 0.5  lr 0.1  {} img/s  0.1 min left\n"
    log = "".join(line.format(epoch, speed) for epoch, speed in ((1, 100), (2, 50), (2, 200), (11, 300)))
    assert epoch_speeds(log) == [100, 200, 300]


def test_the_tests_report_names_each_failure(tmp_path):
    (tmp_path / "x.xml").write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><failure message="1 != 2&#10;more"/></testcase>'
        '<testcase name="c"><skipped/></testcase></testsuite></testsuites>'
    )
    assert outcomes(tmp_path / "x.xml") == {"ran": 2, "skipped": 1, "failures": {"b": "1 != 2 more"}}


def test_tests_of_which_none_ran_are_not_done(tmp_path, monkeypatch):
    def skips_all(words, *rest, **options):
        Path(words[-2].partition("=")[2]).write_text("<testsuite><testcase name='a'><skipped/></testcase></testsuite>")
        yield

    monkeypatch.setattr("benchmarks.gpu.plan.running", skips_all)
    with pytest.raises(InputError, match="no test for a GPU ran"):
        list(gpu_tests(Lab(tmp_path, False), lambda found: None))


def test_a_training_that_was_continued_has_no_seconds_of_its_stages(tmp_path, monkeypatch):
    """Those of `train` would be only of its last epochs."""
    first = "1"

    def running(words, folder, log, **options):
        with open(log, "a") as file:
            file.write(f"epoch  {first}/24  train loss 1  100 img/s  1 min left\n" * (words == ["stages.train"]))
        yield

    monkeypatch.setattr(runs, "running", running)
    monkeypatch.setattr(runs, "figures", lambda *words: {})

    def found() -> dict:
        work = runs.complete(runs.Run("default", "default", {}, runs.ALL_STAGES), Lab(tmp_path, True), None)
        with pytest.raises(StopIteration) as ended:
            while True:
                next(work)
        return ended.value.value

    assert list(found()["stage_seconds"]) == runs.ALL_STAGES
    first = "2"
    assert "stage_seconds" not in found()


def test_data_are_prepared_again_when_code_or_params_have_changed(tmp_path, monkeypatch):
    prepared = []

    def running(words, *rest, **options):
        prepared.extend(words)
        yield

    monkeypatch.setattr(runs, "running", running)
    for digest in "one", "one", "two":
        monkeypatch.setattr(runs, "digest", lambda values, digest=digest: digest)
        list(runs.prepare_data(Lab(tmp_path, True)))
        prepared.append(digest)
    monkeypatch.undo()
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar/x.py").write_text("1")
    digests = [runs.digest({"seed": 0}), runs.digest({"seed": 1})]
    (tmp_path / "cifar/x.py").write_text("2")
    assert len({*digests, runs.digest({"seed": 0})}) == 3
    assert prepared == ["stages.download", "stages.stats", "one", "one", "stages.download", "stages.stats", "two"]


def test_rows_of_speeds_are_whole_lines_of_json(tmp_path):
    (tmp_path / "log").write_text('warning: {}\n{"recipe": "fast"}\n{"recipe": "be')
    assert read_rows(tmp_path / "log") == [{"recipe": "fast"}]


def test_aims_are_reached_or_not_by_the_seconds_of_training():
    fast = {f"fast, seed {seed}": seconds for seed, seconds in enumerate((4.0, 4.5, 9.0))}
    steps = {name: {"state": "done", "train_seconds": seconds} for name, seconds in fast.items()}
    steps["default"] = {"state": "done", "train_seconds": 12.4, "stage_seconds": {"train": 20.0, "evaluate": 5.0}}
    told = [line.split() for line in summary(steps, is_dry=False).splitlines()]
    ends = {words[1]: words[-2:] for words in told if len(words) > 3 and words[0] in ("training", "download")}
    assert ends["fast,"] == ["4.5", "yes"] and ends["the"] == ["12.4", "no"] and ends["to"] == ["25.0", "yes"]
    assert ends["best,"] == ["not", "measured"]
