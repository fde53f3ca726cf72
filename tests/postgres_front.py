"""A front for the stand-in's PostgreSQL that fails as told: between the procedure and PostgreSQL, which is a real one.

It speaks as much of the protocol as it must (postgresql.org/docs/current/protocol-message-formats.html): it sees each
login and each statement, and counts them.
"""

import contextlib
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Literal, Self

from tests.sandbox.layout import HOST, POSTGRES

How = Literal["cut", "lost", "down", "slow", "full", "statement timeout", "lock timeout", "denied"]
"""Cut before it is carried out; cut after it was; cut, and nobody let in from then on; carried out SLOW seconds late;
not carried out, with PostgreSQL's own error."""
SLOW = 3.0  # seconds
ERRORS = {
    "full": (b"53300", b"sorry, too many clients already"),
    "statement timeout": (b"57014", b"canceling statement due to statement timeout"),
    "lock timeout": (b"55P03", b"canceling statement due to lock timeout"),
    "denied": (b"42501", b"permission denied to alter role"),
}
LOGIN = "login"
_ENCRYPTION = (80877103, 80877104)  # SSLRequest, GSSENCRequest


class Front:
    """Listens while the block runs. `fail` says which of the next logins and statements fails, and how."""

    def __init__(self) -> None:
        self.failed = ""
        """The login or statement that was the first to fail since `fail`; empty if none was."""
        self._next, self._at, self._text, self._how, self._times, self._down = 0, -1, "", "", 0, False
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def fail(self, at: int | str, how: How, times: int = 1) -> None:
        """Have a login or statement, and `times` - 1 after it, fail: by its number from now, from 0, or by its text."""
        self.failed = ""
        self._next, self._how, self._times = 0, how, times
        self._at, self._text = (at, "") if isinstance(at, int) else (-1, at)

    def mend(self) -> None:
        """Let all pass again."""
        self._times, self._down = 0, False

    def url(self, url: str) -> str:
        """Give the same URL by way of this front."""
        return url.replace(f":{POSTGRES}/", f":{self.port}/")

    def how(self, what: str) -> str:
        """Take note of a login or a statement, and say how it is to fail."""
        number, self._next = self._next, self._next + 1
        if self._at < 0 and self._text and self._text in what:
            self._at = number
        if self._down:
            return "cut"
        spared = {"denied": what == LOGIN, "full": what != LOGIN}.get(self._how, False)
        if spared or self._at < 0 or not self._at <= number < self._at + self._times:
            return ""
        self.failed = self.failed or what
        self._down = self._how == "down"
        only_statements = self._how not in ("slow", "full")
        return "cut" if self._down or (what == LOGIN and only_statements) else self._how

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=_Session(self, client).serve, daemon=True).start()


class _Session:
    def __init__(self, front: Front, client: socket.socket) -> None:
        self._front, self._client = front, client
        self._server = socket.create_connection((HOST, POSTGRES))
        self._status, self._mute, self._skips = b"I", False, False

    def serve(self) -> None:
        """Pass on what the client says until one side is gone, or a fault says so."""
        with contextlib.suppress(OSError), self._client, self._server:
            try:
                self._log_in()
                threading.Thread(target=self._answer, daemon=True).start()
                while True:
                    kind, length = struct.unpack("!cI", _exactly(self._client, 5))
                    self._ask(kind, _exactly(self._client, length - 4))
            finally:
                for side in (self._client, self._server):
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)

    def _log_in(self) -> None:
        while True:
            (length,) = struct.unpack("!I", _exactly(self._client, 4))
            body = _exactly(self._client, length - 4)
            if struct.unpack("!I", body[:4])[0] not in _ENCRYPTION:
                break
            self._client.sendall(b"N")
        how = self._front.how(LOGIN)
        if how == "slow":
            time.sleep(SLOW)
        elif how:
            self._client.sendall(_error(b"FATAL", how) if how in ERRORS else b"")
            raise ConnectionAbortedError
        self._server.sendall(struct.pack("!I", length) + body)

    def _ask(self, kind: bytes, body: bytes) -> None:
        if self._skips:
            if kind != b"S":
                return
            self._skips = False
            self._client.sendall(b"Z" + struct.pack("!I", 5) + (b"I" if self._status == b"I" else b"E"))
            return
        how = ""
        if kind in b"QP":
            text = body.split(b"\0")[0 if kind == b"Q" else 1]
            how = self._front.how(text.decode())
        if how == "cut":
            raise ConnectionAbortedError
        if how in ERRORS:
            self._client.sendall(_error(b"ERROR", how))
            self._skips = True
            if kind == b"Q":  # after which no Sync comes
                self._ask(b"S", b"")
            return
        time.sleep(SLOW if how == "slow" else 0)
        self._mute = self._mute or how == "lost"
        self._server.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                kind, length = struct.unpack("!cI", _exactly(self._server, 5))
                body = _exactly(self._server, length - 4)
                if kind == b"Z":
                    self._status = body
                if not self._mute:
                    self._client.sendall(kind + struct.pack("!I", length) + body)
                elif kind == b"Z":
                    break
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def _error(severity: bytes, how: str) -> bytes:
    code, message = ERRORS[how]
    fields = b"".join(name + value + b"\0" for name, value in ((b"S", severity), (b"C", code), (b"M", message)))
    return b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (more := source.recv(size - len(found))):
            raise ConnectionAbortedError
        found += more
    return found
