"""The daemon's HTTP API, as the people and programs of the story use it."""

from __future__ import annotations

import http.client
from typing import Any

import msgspec


class Refused(Exception):
    """The daemon did not do it; the text says what it answered."""


class Api:
    """The daemon at an address, for someone with this token (none: for anybody). Any thread."""

    def __init__(self, address: str, token: str = "") -> None:
        self._address = address
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(self, method: str, path: str, said: Any = None) -> bytes:
        """What it answers. Refused for anything but success, OSError where it does not answer."""
        connection = http.client.HTTPConnection(self._address, timeout=10.0)
        try:
            connection.request(method, path, None if said is None else msgspec.json.encode(said), self._headers)
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {body[:300].decode(errors='replace')}")
        return body
