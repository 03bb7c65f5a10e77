"""A compiled network against the network itself, on the processor; what a GPU is given is in test_gpu.py."""

import os
import shutil
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from specs import AIRNET, GREY, LOSS, MUON, changed, trainer_spec

from cifar.data.splits import Batch
from cifar.system.errors import InputError
from cifar.training.compiling import Compiled, compile_seconds
from cifar.training.trainer import Trainer, build_trainer

COMPILER, HEADER = os.environ.get("CXX", "g++"), Path(sysconfig.get_path("include"), "Python.h")
SPEC = trainer_spec(
    model=changed(AIRNET, widths=[8, 16, 16], whitening_bias={"start": "random", "lr_factor": 8.0}),
    optimizer=MUON,
    loss=changed(LOSS, label_smoothing=0.2),
    bias_lr_factor=8.0,
    compile=True,
)


def make_trainer() -> Trainer:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    return build_trainer(SPEC, GREY, images)


def random_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    images, labels = random.integers(0, 256, (20, 32, 32, 3), np.uint8), random.integers(0, 10, 20)
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


@pytest.mark.skipif(not (shutil.which(COMPILER) and HEADER.exists()), reason=f"needs {COMPILER} and Python's headers")
def test_steps_of_a_compiled_network_are_those_of_the_network_and_compiling_is_told_apart():
    one, other = make_trainer(), make_trainer()
    assert other.forward is other.network  # a processor has kernels of our own
    other = replace(other, forward=Compiled(other.network))
    started, compiling = time.monotonic(), compile_seconds()
    for seed in range(3):
        found = [trainer.step(random_batch(seed), 0.05, 0.9).tolist() for trainer in (one, other)]
        assert found[1] == pytest.approx(found[0], rel=1e-4)
        if seed == 0:
            took, compiling = time.monotonic() - started, compile_seconds() - compiling
            assert 0 < compiling < took
            compiling = compile_seconds()
    assert compile_seconds() == compiling  # once is enough
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=1e-3, atol=1e-5), name


def test_without_a_compiler_one_line_says_so():
    trainer = make_trainer()
    forward = Compiled(trainer.network)
    with (
        inductor.patch({"cpp.cxx": (None, "/none"), "force_disable_caches": True}),
        pytest.raises(InputError) as caught,
    ):
        forward(torch.zeros(2, 3, 32, 32))
    assert str(caught.value).startswith("the network cannot be compiled: InvalidCxxCompiler: No working C++ compiler")
    assert str(caught.value).endswith("; set compile to false") and "\n" not in str(caught.value)
