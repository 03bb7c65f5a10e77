"""A mirror of CIFAR-10 on this machine, for tests: it serves the archive in every way that servers have."""

import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tiny import ARCHIVE, pack


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the archive; the path says how."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.seen.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.path == "/ranges" else 0
        match self.path:
            case "/ranges" if start >= len(ARCHIVE):
                self.answer(416, b"")
            case "/ranges" | "/whole":
                self.answer(206 if start else 200, ARCHIVE[start:])
            case "/zipped":
                self.answer(200, ARCHIVE, {"Content-Encoding": "gzip"})
            case "/half":
                self.answer(200, ARCHIVE[: len(ARCHIVE) // 2], {"Content-Length": str(len(ARCHIVE))})
            case "/stall":
                self.answer(200, ARCHIVE[:10], {"Content-Length": str(len(ARCHIVE))})
                self.server.stopping.wait(10)
            case "/drip":
                self.answer(200, b"", {"Content-Length": str(len(ARCHIVE))})
                while not self.server.stopping.wait(0.02):
                    self.wfile.write(b".")
            case "/reset":
                self.answer(200, ARCHIVE[:100], {"Content-Length": str(len(ARCHIVE))})
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "/resets":  # brings 100 kB each time
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
                rest = ARCHIVE[start:]
                self.answer(206 if start else 200, rest[:100_000], {"Content-Length": str(len(rest))})
            case "/short":  # less than it has
                self.answer(200, ARCHIVE, {"Content-Length": str(len(ARCHIVE) - 1000)})
            case "/busy":
                self.answer(503, b"later")
            case "/nonsense":
                self.wfile.write(b"no HTTP at all\r\n\r\n")
            case "/other":
                self.answer(200, pack({"data_batch_1": b"of another data set"}))
            case "/page":
                self.answer(200, b"<html>please log in</html>", {"Content-Type": "text/html; charset=utf-8"})
            case "/loop":
                self.answer(302, b"", {"Location": "/loop"})
            case _:
                self.answer(404, b"<html>no such page</html>")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@contextmanager
def serving() -> Iterator[http.server.HTTPServer]:
    """Its `url`, and the requests that it has `seen`: path and Range header."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.stopping = [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.stopping.set()
        server.shutdown()
