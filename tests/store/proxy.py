"""A small HTTP server between client and store that hurts single requests, as networks do; for tests of retries."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Message:
    """A request (without status) or a reply, whole."""

    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    status: int = 0

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def with_header(self, name: str, value: str) -> Message:
        kept = tuple(item for item in self.headers if item[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)) if value else kept)


@dataclass(slots=True)
class Fault:
    """What to do to the next `times` requests of `method` whose path and query fit the glob `path`.

    `answer` replies in the store's stead; `request` and `reply` change what passes; `lose` closes the connection
    instead of replying; `cut` sends only that many bytes of the body it has announced.
    """

    method: str = "*"
    path: str = "*"
    times: int = 1
    answer: Message | None = None
    request: Callable[[Message], Message] = field(default=lambda message: message)
    reply: Callable[[Message], Message] = field(default=lambda message: message)
    lose: bool = False
    cut: int | None = None


def s3_error(status: int, code: str) -> Message:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return Message((("Content-Type", "application/xml"),), body, status)


class FaultyProxy:
    """Forwards to `target` (http://host:port); serves TLS if `tls` is given. Also serves as an HTTP_PROXY."""

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self._target = urlsplit(target).netloc
        self._guard = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, path: str = "*") -> int:
        return sum(seen[0] == method and fnmatchcase(seen[1], path) for seen in self.seen)

    def take(self, method: str, path: str) -> Fault:
        with self._guard:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fnmatchcase(method, fault.method) and fnmatchcase(path, fault.path):
                    fault.times -= 1
                    return fault
        return Fault()

    def forward(self, method: str, path: str, message: Message) -> Message:
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in message.headers:
                connection.putheader(name, value)
            connection.endheaders(message.body)
            reply = connection.getresponse()
            return Message(tuple(reply.getheaders()), reply.read(), reply.status)
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        """The handler class of this proxy (http.server makes an instance for each connection)."""
        bound: dict[str, object] = {"proxy": self}
        bound |= {f"do_{method}": _Handler.handle_any for method in ("GET", "HEAD", "PUT", "POST", "DELETE")}
        return type("Handler", (_Handler,), bound)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle_any(self) -> None:
        parts = urlsplit(self.path)  # absolute where we are an HTTP_PROXY
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        del self.headers["Expect"]  # http.server has answered it already
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.take(self.command, path)
        reply = fault.answer
        if reply is None:
            request = fault.request(Message(tuple(self.headers.items()), body))
            reply = fault.reply(self.proxy.forward(self.command, path, request))
        if fault.lose:
            self.close_connection = True
        else:
            self.send_reply(reply, fault.cut)

    def send_reply(self, reply: Message, cut: int | None) -> None:
        self.send_response_only(reply.status)
        length = reply.header("Content-Length") if self.command == "HEAD" else str(len(reply.body))
        for name, value in reply.headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""
