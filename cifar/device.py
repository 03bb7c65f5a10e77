"""The machine: where to compute, how precisely, and how the C library hands out memory."""

import ctypes
import platform
from typing import Any

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` is bfloat16 on GPUs that have it and on processors with AMX or AVX-512 for it.

    Elsewhere the CPU emulates bfloat16, at a fraction of float32's speed.
    """
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted]
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        is_fast = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.bfloat16 if is_fast else torch.float32


def environment(device: torch.device, precision: torch.dtype) -> dict[str, Any]:
    """What decides the bits of a result beside code, data and params, for two people whose hashes differ."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def keep_memory() -> None:
    """Stop glibc from giving freed memory back to the system; to be called before the first large tensor.

    Without this a third of each training step on a CPU goes to page faults (measured with batch 512). Where the C
    library has no `mallopt` (macOS, musl) nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is None:
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)
