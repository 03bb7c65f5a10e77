"""Processes that share a stage are ended when none of them works, and only then."""

import subprocess
import sys
import time

import psutil
import pytest

from cifar.system.stuck import ending_stuck

REST = "import time; time.sleep(60)"
WORK = "import time; end = time.monotonic() + 6\nwhile time.monotonic() < end: pass"


def start(*programs: str) -> list[subprocess.Popen]:
    return [subprocess.Popen([sys.executable, "-c", program]) for program in programs]


def test_processes_that_all_rest_are_ended():
    with ending_stuck(3) as is_stuck:
        began = time.monotonic()
        assert [each.wait() for each in start(REST, REST)] == [-9, -9]
        assert is_stuck.is_set() and 3 <= time.monotonic() - began < 30


def test_one_that_is_suspended_is_ended_with_the_one_that_waits_for_it():
    with ending_stuck(3) as is_stuck:
        busy, waiting = start(WORK.replace("6", "600"), REST)
        psutil.Process(busy.pid).suspend()
        assert (busy.wait(), waiting.wait(), is_stuck.is_set()) == (-9, -9, True)


@pytest.mark.slow
def test_many_that_wait_and_look_up_now_and_then_are_ended():
    """Each uses a thousandth of the processor, as PyTorch's and our own threads do while they wait."""
    nap = "import time\nwhile True:\n    time.sleep(0.5)\n    end = time.process_time() + 0.0005\n"
    nap += "    while time.process_time() < end: pass"
    with ending_stuck(5) as is_stuck:
        assert [each.wait() for each in start(*[nap] * 8)] == [-9] * 8 and is_stuck.is_set()


def test_one_that_works_longer_than_the_limit_is_waited_for():
    with ending_stuck(3) as is_stuck:
        busy, waiting = start(WORK, REST)
        assert busy.wait() == 0 and waiting.poll() is None and not is_stuck.is_set()
        waiting.kill()
        waiting.wait()


def test_it_watches_no_longer_than_the_block():
    with pytest.raises(ZeroDivisionError), ending_stuck(1):
        raise ZeroDivisionError
    (waiting,) = start(REST)
    time.sleep(2.5)
    assert waiting.poll() is None
    waiting.kill()
    waiting.wait()
