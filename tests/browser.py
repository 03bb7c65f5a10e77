"""A headless Chromium for tests, driven over a pipe by its own protocol (CDP): no port, no network, no driver."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
SECONDS = 60  # for an answer
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed: `apt-get install chromium`")


class Page:
    """A tab: what it asked for (`requests`), and what went wrong in it (`errors`)."""

    def __init__(self, pipes: tuple[int, int]):
        self._reading, self._writing = pipes
        self._buffer, self._count, self._session = b"", 0, None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def show(self, path: Path, width: int, *, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Open the file, with or without JavaScript."""
        self.requests.clear()
        self.errors.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._wait(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=False)["data"]
        path.write_bytes(base64.b64decode(picture))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda message, number=self._count: message.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _wait(self, is_wanted) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._buffer:
                ready, *_ = select.select([self._reading], [], [], max(0, deadline - time.monotonic()))
                assert ready, "Chromium does not answer"
                read = os.read(self._reading, 1 << 20)
                assert read, "Chromium has ended"
                self._buffer += read
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            self._note(message)
            if is_wanted(message):
                return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])


@contextmanager
def browser() -> Iterator[Page]:
    """A tab of a new Chromium, with a profile of its own."""
    to_chromium, from_chromium = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def take_pipes() -> None:  # Chromium reads descriptor 3 and writes descriptor 4
            reading, writing = os.dup(to_chromium[0]), os.dup(from_chromium[1])
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, pass_fds=(3, 4), preexec_fn=take_pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            os.close(to_chromium[0])
            os.close(from_chromium[1])
            yield Page((from_chromium[0], to_chromium[1]))
        finally:
            process.kill()
            process.wait()
            os.close(from_chromium[0])
            os.close(to_chromium[1])


def assert_quiet(tab: Page, path: Path) -> None:
    """The page asked for nothing but itself, and nothing went wrong in it."""
    assert [url for url in tab.requests if not url.startswith("data:")] == [path.resolve().as_uri()]
    assert tab.errors == []
