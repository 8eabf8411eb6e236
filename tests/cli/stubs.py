"""A stand-in for the aggregator: answers over a real socket what a test tells it to, byte for byte if need be."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes = field(repr=False)

    @property
    def target(self):
        return self.path.split("/", 5)[-1]


def answer(status=204, body=b"", **headers):
    """The bytes of an answer; a header's name has _ for -."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    if status != 204:
        headers.setdefault("Content_Length", str(len(body)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


CUT = object()  # hang up instead of going on


@dataclass(kw_only=True)
class Stub:
    url: str
    asked: list[Asked]

    def methods(self):
        return [request.method for request in self.asked]


@contextmanager
def answering(reply: Callable[[Asked], object], context: ssl.SSLContext | None = None):
    """Answer every request with `reply(request)`: bytes, or an iterable of bytes (and CUT) to send one by one."""
    listener = socket.create_server(("127.0.0.1", 0))
    stub = Stub(url=f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}", asked=[])

    def serve(connection):
        wrapped = connection
        if context is not None:
            wrapped = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        open_now.append(wrapped)
        with suppress(OSError, ValueError), wrapped:
            if isinstance(wrapped, ssl.SSLSocket):
                wrapped.do_handshake()
            with wrapped.makefile("rb") as file:
                while (line := file.readline()).strip():
                    method, path, _ = line.decode().split(" ")
                    headers = {}
                    while (header := file.readline()).strip():
                        name, _, value = header.decode("latin-1").partition(":")
                        headers[name.strip().lower()] = value.strip()
                    body = file.read(int(headers.get("content-length", 0)))
                    stub.asked.append(Asked(method=method, path=path, headers=headers, body=body))
                    found = reply(stub.asked[-1])
                    for part in [found] if isinstance(found, bytes) or found is CUT else found:
                        if part is CUT:
                            wrapped.shutdown(socket.SHUT_RDWR)
                            return
                        wrapped.sendall(part)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
            threads[-1].start()

    open_now: list[socket.socket] = []
    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    try:
        yield stub
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)


class Time:
    """A clock that only pauses move."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds
