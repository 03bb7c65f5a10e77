"""The programs in docs/using-the-model.md work as they stand there, and say what `python -m cifar predict` says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar.__main__ import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/using-the-model.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ALONE = "numpy", "onnxruntime", "PIL"  # what the program for other machines may import, next to Python's own modules
ABSENT = "torch", "cifar", "onnx", "pandas", "cv2", "safetensors"


@pytest.fixture
def folder(project, tmp_path, monkeypatch) -> Path:
    """The current folder: the pipeline's models/, and photos of other shapes than the network's images."""
    (tmp_path / "models").symlink_to(project.folder / "models")
    random = np.random.default_rng(0)
    for name, (height, width) in {"photo.png": (91, 64), "wide.bmp": (33, 120)}.items():
        waves = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 13))[..., None]
        pixels = 127 + 50 * waves + random.normal(0, 20, (height, width, 3)) * [1, 0.5, 2]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predicted(folder, monkeypatch, capsys) -> dict[str, tuple[str, float]]:
    """The class and its probability of each photo, as the command finds them."""
    monkeypatch.setattr(sys, "argv", ["cifar", "predict", "photo.png", "wide.bmp", "--top", "1", "--json"])
    main()
    answers = json.loads(capsys.readouterr().out)
    return {answer["file"]: (best["class"], best["probability"]) for answer in answers for best in answer["classes"]}


def test_the_python_program_names_the_class_in_few_lines(folder, predicted, capsys):
    assert len(re.findall(r"^\S.*", PROGRAMS[0], re.MULTILINE)) <= 7
    exec(PROGRAMS[0], {})
    assert capsys.readouterr().out == f"{predicted['photo.png'][0]}\n"


def test_the_program_for_onnx_runs_without_this_project_in_twenty_lines(folder, predicted):
    program = PROGRAMS[1]
    assert len([line for line in program.splitlines() if line]) <= 20
    imported = set(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE))
    assert imported - {*ALONE} <= {*sys.stdlib_module_names}
    for name in ABSENT:
        (folder / "absent" / name).mkdir(parents=True)
        (folder / "absent" / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name} here')")
    (folder / "classify.py").write_text(program)
    command = [sys.executable, "classify.py", *predicted]
    environment = os.environ | {"PYTHONPATH": str(folder / "absent")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "".join(f"{name}  {best} {p:.1%}\n" for name, (best, p) in predicted.items())
