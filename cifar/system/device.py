"""The device to compute on, the precision, and the record of both."""

import os
import platform
from importlib import metadata
from typing import Any

import torch

from cifar.system.memory import keep_memory

# Environment variables that choose other kernels, precisions or orders of sums, and so change the last bits.
OVERRIDES = (
    # oneDNN, by its own prefix and by the older one (src/common/utils.cpp, getenv_int_user)
    *("ONEDNN_CPU_ISA_HINTS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA"),
    *("DNNL_CPU_ISA_HINTS", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA"),
    *("MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_DOMAIN_NUM_THREADS", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS"),
    *("KMP_DETERMINISTIC_REDUCTION", "OMP_DYNAMIC", "OMP_THREAD_LIMIT"),  # OMP_NUM_THREADS is recorded as `threads`
    *("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "OPENBLAS_CORETYPE"),  # NumPy
    *("OPENCV_CPU_DISABLE", "OPENCV_IPP"),
    *("CUBLASLT_WORKSPACE_SIZE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("TORCH_BLAS_PREFER_CUBLASLT", "TORCH_CUDNN_V8_API_DISABLED"),
)  # fmt: skip


def cores() -> int:
    """How many cores this process may use, where the system tells (Linux), else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def processor() -> dict[str, Any]:
    """The processor's name and instruction sets; empty with a PyTorch that cannot tell (before 2.11)."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def has_amx() -> bool:
    """Does the processor have AMX, Intel's tiles for bfloat16? A virtual machine may hide it."""
    return bool(processor().get("amx_bf16"))


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` is bfloat16 on GPUs that have it, and on processors that are faster in it.

    Two kinds of processors multiply twice as fast as in float32: those with AMX, and AMD's with AVX-512 BF16. Intel's
    with AVX-512 BF16 but without AMX are no faster in bfloat16, and all older ones emulate it.
    """
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = processor()
        is_intel = capabilities.get("cpu_name", "").startswith("Intel")
        is_fast = has_amx() or bool(capabilities.get("avx512_bf16") and not is_intel)
    return torch.bfloat16 if is_fast else torch.float32


def environment(device: torch.device, precision: torch.dtype, deterministic: bool) -> dict[str, Any]:
    """What decides the bits of a result in addition to code, data and params; compare it when two hashes differ.

    Libraries choose their kernels by the instruction sets, and split sums into as many parts as there are threads.
    """
    packages = "albumentations", "numpy", "opencv-python-headless", "torch"
    versions = {package: metadata.version(package) for package in packages}
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "precision": str(precision).removeprefix("torch."),
        "deterministic": deterministic,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": [name for name, has in sorted(processor().items()) if has is True],
        "overrides": {name: os.environ[name] for name in OVERRIDES if name in os.environ},
    }
    if device.type == "cuda":
        machine |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        machine["cublas_workspace"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    return versions | machine


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between two environments, in words: `threads 4, here 2; precision bfloat16, here float32`."""
    words = []
    for name in sorted(there | here):
        before, now = there.get(name), here.get(name)
        if isinstance(before, list) and isinstance(now, list):  # instruction sets
            before, now = (
                " ".join(name for name in names if name not in others) or "none more"
                for names, others in ((before, now), (now, before))
            )
        if before != now:
            words.append(f"{name} {before}, here {now}")
    return "; ".join(words)


def prepare(deterministic: bool) -> None:
    """Set up this process for training or evaluation; call it before the first large tensor is allocated.

    TF32 is off: by default cuDNN's convolutions round their float32 inputs to 11 bits.

    `deterministic` concerns GPUs only: it chooses the deterministic kernels of PyTorch and cuDNN, and warns where there
    is none. On a CPU the same threads and instructions give the same bits in any case.
    """
    keep_memory()
    # use_deterministic_algorithms does the same, but imports torch.compile's modules, which takes seconds
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # for debugging; it takes time
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic  # time several kernels and use the fastest
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # NVIDIA: cuBLAS documentation, "Reproducibility"
