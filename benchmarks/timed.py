"""Run a module, and note its time and peak memory as a JSON line: `python timed.py LOG MODULE`."""

import json
import os
import subprocess
import sys
import time


def main() -> None:
    log, module = sys.argv[1:]
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", module])
    _, status, usage = os.wait4(child.pid, 0)
    figures = {"seconds": time.perf_counter() - started, "peak_mib": usage.ru_maxrss / 1024}  # Linux counts KiB
    with open(log, "a") as file:
        file.write(json.dumps({"stage": module.removeprefix("stages."), **figures}) + "\n")
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
