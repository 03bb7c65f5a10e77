"""Processes that share a stage and have stopped working: how the one that started them notices, and ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOKS = 1.0  # seconds between two looks
WORK = 0.005  # of a processor's time; a process that only waits for others uses a twentieth of this


@contextmanager
def ending_stuck(limit: float) -> Iterator[threading.Event]:
    """While the block runs, kill the processes that this one has started if none of them works for `limit` seconds.

    The event tells whether this has happened. A process works if it uses the processor, or waits for it or for a disk,
    but one that waits for another process does neither. So if one of them is suspended or hangs, all come to rest; and
    as long as one works, however slowly, the others may wait.
    """
    is_over, is_stuck = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(limit, is_over, is_stuck), daemon=True)
    watcher.start()
    try:
        yield is_stuck
    finally:
        is_over.set()
        watcher.join()


def _watch(limit: float, is_over: threading.Event, is_stuck: threading.Event) -> None:
    import psutil  # a GPU machine without DVC may lack it, and trains in one process

    this, before, ran, rests = psutil.Process(), {}, set(), 0
    while not is_over.wait(LOOKS):
        processes, used, runs, works = this.children(recursive=True), {}, set(), False
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
                works |= used[process.pid] - before.get(process.pid, 0.0) >= WORK * limit
                works |= process.status() == psutil.STATUS_DISK_SLEEP
                runs |= {process.pid} if process.status() == psutil.STATUS_RUNNING else set()
        works |= not ran.isdisjoint(runs)  # at two looks: one that rests may look up at one
        ran = runs
        if works or used.keys() != before.keys():
            before, rests = used, 0
            continue
        rests += bool(used)  # looks, not time: this process may have been suspended too
        if rests * LOOKS >= limit:
            is_stuck.set()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            return
