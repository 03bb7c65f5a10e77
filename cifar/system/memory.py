"""Settings of the memory allocator of the C library."""

import ctypes
import os
import platform
import sys


def restart_without_block_caches() -> None:
    """Restart this process, with the same number and arguments, with glibc's caches of small blocks switched off.

    glibc does not join a cached block to the free memory on both sides of it. A training that allocates the same large
    blocks in every step then finds fewer and fewer gaps that hold them. With the default params this wastes 0.3 of
    2.9 GiB in the first steps, and more later. Only the variable GLIBC_TUNABLES switches the caches off, and glibc
    reads it when a process starts. Where the user has set it, and without glibc, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_memory() -> None:
    """Tell glibc not to give freed memory back to the system.

    Otherwise a sixth of each training step on a CPU goes into page faults (default params, batch size 512). Where the C
    library has no `mallopt` (macOS, musl) nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is None:
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)
