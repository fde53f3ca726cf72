"""A front for the stand-in's AWS that fails as told: between the procedure and AWS, never between the API and AWS."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from tests.sandbox.layout import AWS, HOST

How = Literal["drop", "lost", "500", "late 500", "throttle", "throttle 1 s", "slow", "hang", "denied", "flip", "cut"]
"""Not carried out and no answer; carried out and no answer; the same with a 500; carried out after 1 s, or 11 s.

`throttle 1 s` says so in Retry-After. `flip` and `cut` damage what was answered: a byte in its middle is another, or
the last one is missing.
"""
MULTIPART = ("partNumber", "uploads", "uploadId")
SLOW, HANG = 1, 11  # seconds; the client waits for 10
XML = "<ErrorResponse><Error><Type>Sender</Type><Code>{0}</Code><Message>{0}</Message></Error></ErrorResponse>"
S3_XML = "<Error><Code>{0}</Code><Message>{0}</Message></Error>"


class Front:
    """Listens while the block runs. `fail` says what the next calls get; all others are passed on as they are."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._faults: dict[str, Iterator[How | None]] = {}
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_port}"

    def fail(self, call: str, how: How, times: int = 1, *, after: int = 0) -> None:
        """Have `times` calls fail, after so many that do not; `*` is any call.

        Of IAM or STS by its action, of S3 as `PUT bucket`; of a multipart upload as `POST bucket uploads`, `PUT bucket
        partNumber`, `POST bucket uploadId` and `DELETE bucket uploadId`, in the order of its life; `GET bucket range`.
        """
        self._faults[call] = chain(repeat(None, after), repeat(how, times))

    def how(self, call: str) -> How | None:
        """Take note of a call, and say how it is to fail."""
        self.calls[call] += 1
        return next(self._faults.get(call, iter(())), None) or next(self._faults.get("*", iter(())), None)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Passes one request on, with its own Host, over which it was signed."""

        protocol_version = "HTTP/1.1"  # else nobody answers `Expect: 100-continue`, and each upload waits for that

        def handle_any(self) -> None:
            self.close_connection = True
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            action = parse_qs(body.decode("latin-1")).get("Action", [""])[0] if self.command == "POST" else ""
            address = urlsplit(self.path)
            query = parse_qs(address.query, keep_blank_values=True)
            of_part = next((word for word in MULTIPART if word in query), "range" if self.headers.get("Range") else "")
            how = front.how(action or f"{self.command} {address.path.split('/')[1]} {of_part}".rstrip())
            code = {"500": "InternalFailure", "denied": "AccessDenied"}.get(how or "")
            if how in ("throttle", "throttle 1 s"):
                code = "Throttling" if action else "SlowDown"
            if how == "drop":
                return
            if code:
                status = {"500": 500, "denied": 403}.get(how or "", 400 if action else 503)
                later = {"Retry-After": "1"} if how == "throttle 1 s" else {}
                self._answer(status, (XML if action else S3_XML).format(code).encode(), later)
                return
            time.sleep(SLOW if how == "slow" else 0)
            answer, content = self._pass_on(body)
            if how == "hang":
                time.sleep(HANG)
            if how == "flip":
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            if how == "cut":
                content = content[:-1]
            if how == "late 500":
                self._answer(500, XML.format("ServiceFailure").encode())
            elif how not in ("lost", "hang"):
                self._answer(answer.status, content, dict(answer.getheaders()))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _pass_on(self, body: bytes) -> tuple[HTTPResponse, bytes]:
            connection = HTTPConnection(HOST, AWS, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer, content

        def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response_only(status)
            for name, value in (headers or {}).items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

    return Handler
