"""How the C library hands out memory."""

import ctypes
import os
import platform
import sys


def restart_without_block_caches() -> None:
    """Start this process anew, under its number and with its arguments, with glibc's caches of small blocks off.

    A block that lies in such a cache is not joined to the free memory on both sides of it, so in a training that
    allocates the same large blocks step by step they fit in ever fewer places: 0.3 GiB of 2.9 in the first steps of the
    default's, and growing. Nothing but GLIBC_TUNABLES turns them off, which glibc reads as a process starts; where it
    is set already, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_memory() -> None:
    """Stop glibc from giving freed memory back to the system.

    Without this a sixth of each training step on a CPU goes to page faults (the default's, batch 512). Where the C
    library has no `mallopt` (macOS, musl) nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is None:
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 64 * 2**20)
