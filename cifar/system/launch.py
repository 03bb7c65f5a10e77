"""One stage in several processes: how they start and how they end. What they exchange is in `processes`."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cifar.system.process import LOST, REPRO, InputError, Stopped, is_one_of_several
from cifar.system.processes import join
from cifar.system.stuck import ending_stuck

REST, NODES_REST = 22, 600  # seconds without work; those of one machine may wait long for those of a slower one
SHUTDOWN = 8  # seconds that a process has to clean up after SIGTERM; less than `process.GRACE`
NODES_WAIT = 900  # seconds in which all machines must start


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
    devices = torch.cuda.device_count() if torch.cuda.is_available() else _cores()
    return 2 ** (max(1, min(shards // nodes, devices)).bit_length() - 1)


def _cores() -> int:
    """How many cores this process may use, where the system tells (Linux), else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _launch(processes: int, nodes: int, logs: str) -> None:
    """Run this command in `processes` processes of torchrun's launcher, with what the silent ones say in `logs`."""
    # The launcher takes seconds to import, and most runs need none.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it says in many lines what we say in one
    node = _read_count("NODE", 0, lowest=0)
    silent = {number: Std.ALL for number in range(processes) if node + number > 0}
    if nodes == 1:
        loopback = {"Linux": "lo", "Darwin": "lo0"}.get(platform.system())
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    else:
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": _meeting_point(node, nodes)}
        meeting["rdzv_configs"] = {"rank": node, "timeout": NODES_WAIT}
    config = LaunchConfig(
        min_nodes=nodes, max_nodes=nodes, nproc_per_node=processes, max_restarts=0, run_id=sys.orig_argv[-1],
        logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=silent), shutdown_timeout=SHUTDOWN,
        signals_to_handle="",  # `run` handles them
        **meeting,
    )  # fmt: skip
    rest = REST if nodes == 1 else NODES_REST
    try:
        with _leaving_last(node, nodes), ending_stuck(rest) as is_stuck:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        if is_stuck.is_set():
            raise InputError(f"the processes of this stage have done nothing for {rest} s; {REPRO}") from None
        _fail([*error.failures.values()], processes, logs)
    except (dist.DistError, RuntimeError) as error:  # from the rendezvous
        raise InputError(f"the processes did not find each other ({error}); check NODES, NODE and RENDEZVOUS") from None


@contextmanager
def _leaving_last(node: int, nodes: int) -> Iterator[None]:
    """Keep the machine NODE=0 until the others have left, at most SHUTDOWN seconds.

    Its launcher holds the store over which all launchers meet. torch lets it end while another one still asks the
    store whether all are done, and that one would then print a traceback after a training that went well.
    """
    if nodes == 1:
        yield
        return
    address, _, port = _meeting_point(node, nodes).rpartition(":")
    timeout = timedelta(seconds=NODES_WAIT)
    # On NODE=0 the launcher's own store is a second one on the same server, which lives as long as either of them.
    store = dist.TCPStore(address, int(port), None, node == 0, timeout, wait_for_workers=False, multi_tenant=True)
    patience = timedelta(seconds=SHUTDOWN)
    try:
        yield
    except Stopped:
        patience = timedelta(milliseconds=1)  # the launcher has used its time to clean up
        raise
    finally:
        with suppress(dist.DistError):  # another machine, or the connection to it, is lost
            if node:
                store.set(f"left {node}", "")
            else:
                store.wait([f"left {other}" for other in range(1, nodes)], patience)


def _meeting_point(node: int, nodes: int) -> str:
    """RENDEZVOUS, checked together with the number of this machine among `nodes`."""
    point = os.environ.get("RENDEZVOUS", "")
    if not point.rpartition(":")[0] or not point.rpartition(":")[2].isdigit():
        raise InputError(f"RENDEZVOUS is {point!r}; with NODES={nodes} set it to address:port of the machine NODE=0")
    if node >= nodes:
        raise InputError(f"NODE is {node}; with NODES={nodes} the machines have the numbers 0 to {nodes - 1}")
    return point


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
