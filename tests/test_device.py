"""The choice of precision, and what a machine says of itself."""

import json
import os
from pathlib import Path

import pytest
import torch

from cifar.system.device import OVERRIDES, environment, pick_precision, prepare

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capabilities", "expected"), [
    ({"avx2": True}, torch.float32),
    ({"avx2": True, "avx512_f": True}, torch.float32),  # AVX-512 alone only emulates bfloat16
    ({"avx512_bf16": True, "cpu_name": "AMD EPYC 9B14"}, torch.bfloat16),
    ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.float32),  # where it multiplies no faster
    ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
    ({}, torch.float32),
])  # fmt: skip
def test_bfloat16_only_where_the_processor_is_faster_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_precision("auto", CPU) is expected


def test_an_older_pytorch_that_cannot_name_the_instructions_trains_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert pick_precision("auto", CPU) is torch.float32
    assert environment(CPU, torch.float32, deterministic=True)["instructions"] == []


def test_a_precision_by_name_is_taken_as_it_is():
    assert pick_precision("bf16", CPU) is torch.bfloat16
    assert pick_precision("fp32", CPU) is torch.float32


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel's own list of flags is the oracle")
def test_environment_says_what_was_chosen_and_what_decides_bits(monkeypatch):
    for name in OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    found = environment(CPU, torch.bfloat16, deterministic=True)
    assert found["precision"] == "bfloat16" and found["deterministic"] is True
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["overrides"] == {"MKL_CBWR": "COMPATIBLE"}
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    assert ("avx2" in flags.split()) == ("avx2" in found["instructions"])
    json.dumps(found)


# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html; each also by its older prefix, DNNL
@pytest.mark.parametrize("name", ["MAX_CPU_ISA", "CPU_ISA_HINTS", "DEFAULT_FPMATH_MODE"])
@pytest.mark.parametrize("prefix", ["ONEDNN", "DNNL"])
def test_every_name_by_which_onednn_is_told_other_kernels_is_recorded(monkeypatch, prefix, name):
    before = environment(CPU, torch.float32, deterministic=False)
    monkeypatch.setenv(f"{prefix}_{name}", "ANY")
    after = environment(CPU, torch.float32, deterministic=False)
    assert after["overrides"] == before["overrides"] | {f"{prefix}_{name}": "ANY"}


def test_prepare_asks_for_deterministic_kernels_and_only_if_told(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        prepare(deterministic=False)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert torch.backends.cudnn.benchmark
        prepare(deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
