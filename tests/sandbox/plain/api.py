"""The plain API, asked over HTTP as whoever it is that asks."""

import json
from http.client import HTTPConnection
from typing import Any

from ..layout import HOST
from .credentials import Credentials
from .firebase import id_token
from .layout import API


def ask(
    path: str, data: Any = None, *, method: str | None = None, token: str = "", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Return the status, the body and the headers of an answer; `data` is sent as JSON unless it is bytes."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    connection = HTTPConnection(HOST, API, timeout=10)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    named = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, json.loads(text) if text.startswith(("{", "[")) else text, named


def oncall() -> str:
    """Give an ID token of the login's user."""
    return id_token(email=Credentials.load().login_email)
