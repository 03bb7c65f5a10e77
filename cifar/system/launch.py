"""One stage in several processes: how they start and how they end. What they exchange is in `processes`."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cifar.system.device import cores
from cifar.system.errors import InputError
from cifar.system.machines import WAIT, all_machines, meeting_point
from cifar.system.processes import join
from cifar.system.stage import LOST, REPRO, is_one_of_several
from cifar.system.stuck import ending_stuck

REST, NODES_REST = 22, 600  # seconds without work; those of one machine may wait long for those of a slower one
SHUTDOWN = 8  # seconds that a process has to clean up after SIGTERM; less than `stage.GRACE`


def launch(shards: int) -> None:
    """Run this stage in as many processes as PROCESSES says; returns in each of them, and in this one if it is alone.

    The stage calls it first. The new processes run the same command under torchrun's launcher, and when they are done
    this one ends. The first of them writes and prints, the others are silent.

    PROCESSES is the number on this machine. Unset it is the number of GPUs, or of cores without a GPU, at most
    `shards`. On NODES machines the one with NODE=0 writes, and RENDEZVOUS is its `address:port`. All processes together
    must divide `shards`, a power of two.

    Each process computes with OMP_NUM_THREADS threads, or if that is not set with cores // `shards`, whatever the
    number of processes. Raises InputError when a process has failed, with its line, and for wrong numbers.
    """
    threads = threads_of(shards)
    if shards > 1:
        torch.set_num_threads(threads)
    if is_one_of_several():
        if "CIFAR_LAUNCHER" not in os.environ:
            raise InputError("this stage starts its processes itself; set PROCESSES instead of using torchrun")
        join()
        return
    nodes = _read_count("NODES", 1)
    processes = _read_count("PROCESSES", _default_processes(shards, nodes))
    if shards % (nodes * processes):
        total = f"{processes}" if nodes == 1 else f"{nodes} NODES with {processes} PROCESSES each"
        raise InputError(
            f"PROCESSES is {total}, but must divide shards ({shards}); choose another number or unset PROCESSES, "
            "or raise `shards` in params.yaml, which changes the result"
        )
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise InputError(
            f"PROCESSES is {processes}, but each process needs a GPU of its own, and this machine has "
            f"{torch.cuda.device_count()}; choose a smaller number or unset PROCESSES"
        )
    if nodes * processes == 1:
        return
    os.environ |= {"OMP_NUM_THREADS": str(threads), "CIFAR_LAUNCHER": str(os.getpid())}
    with tempfile.TemporaryDirectory(prefix="cifar-") as logs:
        _launch(processes, nodes, logs)
    raise SystemExit(0)


def threads_of(shards: int) -> int:
    """The number of threads for each process: see `launch`."""
    available = torch.get_num_threads()  # OMP_NUM_THREADS or the number of cores
    return available if shards == 1 or os.environ.get("OMP_NUM_THREADS") else max(1, available // shards)


def _read_count(name: str, default: int, lowest: int = 1) -> int:
    """The whole number in the environment variable `name`; raises InputError for anything else."""
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= 1024):
        raise InputError(f"{name} is {text!r}; set it to a number from {lowest} to 1024, or unset it")
    return int(text)


def _default_processes(shards: int, nodes: int) -> int:
    """The largest power of two that exceeds neither the shards of a machine nor its GPUs (without a GPU: its cores)."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else cores()
    return 2 ** (max(1, min(shards // nodes, devices)).bit_length() - 1)


def _launch(processes: int, nodes: int, logs: str) -> None:
    """Run this command in `processes` processes of torchrun's launcher, with what the silent ones say in `logs`."""
    # The launcher takes seconds to import, and most runs need none.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    logging.disable()  # the launcher says in many lines what we say in one
    node = _read_count("NODE", 0, lowest=0) if nodes > 1 else 0
    point = meeting_point(node, nodes) if nodes > 1 else None
    silent = {number: Std.ALL for number in range(processes) if node + number > 0}
    if nodes == 1:
        loopback = {"Linux": "lo", "Darwin": "lo0"}.get(platform.system())
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    else:
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": os.environ["RENDEZVOUS"]}
        meeting["rdzv_configs"] = {"rank": node, "timeout": WAIT}
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=processes, max_restarts=0, run_id=sys.orig_argv[-1],
        logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=silent), shutdown_timeout=SHUTDOWN,
        signals_to_handle="",  # `run` handles them
        **meeting,
    )  # fmt: skip
    rest = REST if nodes == 1 else NODES_REST
    try:
        with all_machines(point, node, nodes, processes), ending_stuck(rest) as is_stuck:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        if is_stuck.is_set():
            raise InputError(f"the processes of this stage have done nothing for {rest} s; {REPRO}") from None
        _fail([*error.failures.values()], processes, logs)
    except (dist.DistError, RendezvousError, RuntimeError) as error:
        if nodes == 1:
            raise InputError(f"the processes could not be started ({error}); {REPRO}, or set PROCESSES=1") from None
        raise InputError(f"the machines did not find each other ({error}); check NODES, NODE and RENDEZVOUS") from None


def _fail(failures: list[Any], processes: int, logs: str) -> None:
    """Raise the error that explains why the processes ended, from torchrun's record of each that has failed."""
    errors = [failure.message for failure in failures if failure.message.startswith("error: ")]
    lost = [failure.message for failure in failures if failure.exitcode == LOST]
    killed = [failure for failure in failures if failure.exitcode < 0]
    bugs = [failure for failure in failures if failure.exitcode == 1 and not failure.message.startswith("error: ")]
    if errors:
        raise InputError(errors[0].removeprefix("error: "))
    if lost and not (killed or bugs):
        raise InputError(lost[0])
    for failure in killed:
        name = signal.Signals(-failure.exitcode).name
        raise InputError(f"process {failure.local_rank + 1} of {processes} was killed ({name}); {REPRO}")
    for failure in bugs:
        for path in sorted(Path(logs).rglob(f"{failure.local_rank}/stderr.log")):
            print(path.read_text(errors="replace"), end="", file=sys.stderr)
        raise SystemExit(1)
    raise InputError(f"a process of this stage was stopped; {REPRO}")
