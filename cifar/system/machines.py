"""Several machines share a stage: how their launchers meet, and how they part."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from cifar.system.errors import InputError
from cifar.system.stage import Stopped

WAIT = 900  # seconds in which all machines must start
PARTING = 8  # seconds that the machine NODE=0 waits at the end for the others


def meeting_point(node: int, nodes: int) -> tuple[str, int]:
    """The address and the port in RENDEZVOUS, checked together with the number of this machine among `nodes`."""
    point = os.environ.get("RENDEZVOUS", "")
    found = re.fullmatch(r"(?:\[(.+)\]|([^\[\]:]+)):(\d{1,5})", point, re.ASCII)  # [address] for IPv6
    if not found or not _can_be_address(found[1] or found[2]) or not 0 < int(found[3]) < 2**16:
        raise InputError(f"RENDEZVOUS is {point!r}; with NODES={nodes} set it to address:port of the machine NODE=0")
    if node >= nodes:
        raise InputError(f"NODE is {node}; with NODES={nodes} the machines have the numbers 0 to {nodes - 1}")
    return found[1] or found[2], int(found[3])


@contextmanager
def all_machines(point: tuple[str, int] | None, node: int, nodes: int, processes: int) -> Iterator[None]:
    """Wait for all machines before the block, and after it, on NODE=0, until the others have left.

    The launcher of NODE=0 holds the store over which all launchers meet. torch lets it end while another one still asks
    the store whether all are done, and lets the others end well when it has failed.

    Raises InputError when a machine does not come within WAIT, when they have different numbers of processes, and
    on the other machines when NODE=0 has not ended well.
    """
    if point is None:
        yield
        return
    absent = InputError(
        f"not all {nodes} NODES were there within {WAIT // 60} minutes; start the stage on each, with one RENDEZVOUS"
    )
    if node and not _becomes_true(lambda: _answers(point), WAIT):
        raise absent
    # On NODE=0 the launcher's own store is a second one on the same server, which lives as long as either of them.
    timeout = timedelta(seconds=WAIT)
    store = dist.TCPStore(*point, None, node == 0, timeout, wait_for_workers=False, multi_tenant=True)
    store.set(f"processes {node}", str(processes))
    here = [f"processes {each}" for each in range(nodes)]
    if not _appear(store, here, WAIT):
        raise absent
    numbers = [store.get(each).decode() for each in here]
    if len(set(numbers)) > 1:
        _leave(store, node, nodes)
        raise InputError(f"the machines have {', '.join(numbers)} PROCESSES; set the same number on each")
    yield
    if node == 0:
        store.set("done", "")
    elif not _appear(store, ["done"], WAIT):
        raise InputError("the machine NODE=0 ended before it had written the results; see what it says")
    _leave(store, node, nodes)


def _leave(store: dist.TCPStore, node: int, nodes: int) -> None:
    """Say that this machine needs the store no more; on NODE=0, which holds it, wait until all others have said so."""
    with suppress(Stopped, dist.DistError):  # what there was to do is done
        if node:
            store.set(f"left {node}", "")
        else:
            _appear(store, [f"left {each}" for each in range(1, nodes)], PARTING)


def _appear(store: dist.TCPStore, keys: Sequence[str], seconds: float) -> bool:
    """Whether all `keys` are in the store after at most so many seconds; False also when the store is gone."""
    try:
        return _becomes_true(lambda: store.check([*keys]), seconds)  # the store's own `wait` would handle no signal
    except dist.DistError:
        return False


def _can_be_address(text: str) -> bool:
    try:
        return bool(text.encode("idna"))  # as `socket` encodes it
    except UnicodeError:
        return False


def _answers(point: tuple[str, int]) -> bool:
    """Whether somebody listens there. A store that is not there yet would handle no signal while it is waited for."""
    with suppress(OSError), socket.create_connection(point, timeout=1):
        return True
    return False


def _becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
