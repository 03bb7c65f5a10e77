"""Processes that share a stage and have stopped working: how the one that started them notices, and ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LOOKS = 1.0  # seconds between two looks
WORK = 0.1  # seconds of processor time; processes that only wait for each other use less in the whole limit


@contextmanager
def ending_stuck(limit: float) -> Iterator[threading.Event]:
    """While the block runs, kill the processes that this one has started if they do no work for `limit` seconds.

    The event tells whether this has happened. A process that waits for another uses no processor time. So if one of
    them is suspended or hangs, all come to rest; and as long as one works, however slowly, the others may wait.
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
    import psutil  # only stages in several processes need it, so a GPU machine may lack it

    this, used, rests = psutil.Process(), 0.0, 0
    while not is_over.wait(LOOKS):
        processes, total = this.children(recursive=True), 0.0
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        if not processes or abs(total - used) >= WORK:  # the total falls when a process ends
            used, rests = total, 0
            continue
        rests += 1  # looks, not time: this process may have been suspended too
        if rests * LOOKS >= limit:
            is_stuck.set()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            return
