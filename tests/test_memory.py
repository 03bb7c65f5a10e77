"""The memory allocator's settings."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from subprocess import run

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are glibc's")


def test_freed_memory_is_kept():
    """Once warm, a training step faults in few new pages: the kernel counts them.

    The activations, of 64 MiB, are above the 32 MiB up to which glibc may come to keep memory by itself.
    """
    program = (
        "import resource, sys, torch; from cifar.system.memory import keep_memory\n"
        "if sys.argv[1] == 'keep': keep_memory()\n"
        "network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.BatchNorm2d(64))\n"
        "faults = []\n"
        "for step in range(8):\n"
        "    network(torch.ones(256, 3, 32, 32)).sum().backward()\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(faults[7] - faults[4])"
    )
    faults = {
        mode: int(run([sys.executable, "-c", program, mode], cwd=ROOT, capture_output=True, check=True).stdout)
        for mode in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 3, faults


RESTARTING = """
import os, sys
from cifar.system.memory import restart_without_block_caches
print("here", flush=True)
restart_without_block_caches()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], sys.argv[1:], sys.flags.utf8_mode)
"""


@pytest.mark.parametrize("theirs", [None, "glibc.malloc.arena_max=2"], ids=["unset", "set by the user"])
def test_a_restarted_process_is_the_same_but_for_its_allocator(theirs):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": theirs} if theirs else {}
    command = [sys.executable, "-X", "utf8", "-c", RESTARTING, "one", "a b"]
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    *before, after = running.communicate()[0].splitlines()
    assert running.returncode == 0
    assert before == ["here"] * (1 if theirs else 2)
    assert after == f"{running.pid} {theirs or 'glibc.malloc.tcache_count=0'} ['one', 'a b'] 1"
