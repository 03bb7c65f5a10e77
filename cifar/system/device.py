"""The machine: where to compute, and how precisely."""

import os
import platform
from importlib import metadata
from typing import Any

import torch

from cifar.system.memory import keep_memory

OVERRIDES = "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA"  # set by hand


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 by tiles (Intel's AMX), which a virtual machine may hide."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` is bfloat16 on GPUs that have it, and on processors that are faster in it.

    These are the ones with AMX, and AMD's with AVX-512 for it, which multiply twice as fast as in float32. Intel's with
    AVX-512 for it but without AMX, which a virtual machine may hide, multiply no faster; others emulate it.
    """
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        is_intel = capabilities.get("cpu_name", "").startswith("Intel")
        is_fast = has_amx() or bool(capabilities.get("avx512_bf16") and not is_intel)
    return torch.bfloat16 if is_fast else torch.float32


def environment(device: torch.device, precision: torch.dtype, deterministic: bool) -> dict[str, Any]:
    """What decides the bits of a result beside code, data and params, for two people whose hashes differ.

    Libraries choose their kernels by the instruction sets, and sum in as many parts as there are threads.
    """
    packages = "albumentations", "numpy", "opencv-python-headless", "torch"
    found = {package: metadata.version(package) for package in packages} | {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "precision": str(precision).removeprefix("torch."),
        "deterministic": deterministic,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": [name for name, has in sorted(torch.cpu.get_capabilities().items()) if has is True],
        "overrides": {name: os.environ[name] for name in OVERRIDES if name in os.environ},
    }
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def prepare(deterministic: bool) -> None:
    """Set up this process for training or evaluation; to be called before the first large tensor.

    float32 is float32: by default cuDNN's convolutions would round their inputs to the 11 bits of TF32.

    `deterministic` concerns GPUs: PyTorch's and cuDNN's deterministic kernels, with a warning where there is none. On
    a CPU the same threads and instructions give the same bits in any case.
    """
    keep_memory()
    # use_deterministic_algorithms does the same, but imports torch.compile's modules, which takes seconds
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # for debugging; it takes time
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic  # try several kernels and take the fastest
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # NVIDIA: cuBLAS documentation, "Reproducibility"
