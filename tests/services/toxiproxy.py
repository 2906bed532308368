"""Toxiproxy: a TCP proxy that delays, cuts, strangles and swallows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tests.services.install import ASSETS, Recipe, run
from tests.services.process import Server, free_port
from tests.services.web import ask


def _build() -> None:
    # go.sum pins every module by digest; the default -mod=readonly keeps the build from changing it.
    package = "github.com/Shopify/toxiproxy/v2/cmd/server"
    run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", RECIPE.home / "toxiproxy", package], ASSETS / "toxiproxy")


_SOURCES = ["toxiproxy/go.mod", "toxiproxy/go.sum", "toxiproxy/tools.go"]
RECIPE = Recipe("toxiproxy", "2.5.0", _build, {"go": "golang-go"}, _SOURCES)


class Toxiproxy(Server):
    """The server; `proxy` puts one of its proxies before an address."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(
            "toxiproxy",
            [RECIPE.home / "toxiproxy", "-host", "127.0.0.1", "-port", str(port)],
            directory=directory,
            ready=lambda: bool(ask(f"{self.url}/version")),
        )

    def proxy(self, upstream: str, listen: str | None = None) -> Proxy:
        """A way to `upstream` (host:port) by a free port, or by `listen`."""
        return Proxy(self.url, upstream, listen or f"127.0.0.1:{free_port()}")


class Proxy:
    """A way to a server on which faults can be laid; `address` (host:port) is where clients come in."""

    def __init__(self, control: str, upstream: str, listen: str) -> None:
        self.address = listen
        self._url = f"{control}/proxies/{listen}"
        self._laid: set[str] = set()
        ask(f"{control}/proxies", {"name": listen, "listen": listen, "upstream": upstream, "enabled": True})

    def slow(self, seconds: float) -> None:
        """Every answer comes later by `seconds`."""
        self._add("latency", "downstream", latency=round(seconds * 1000))

    def strangle(self, kilobytes_per_second: int) -> None:
        """Answers trickle."""
        self._add("bandwidth", "downstream", rate=kilobytes_per_second)

    def swallow(self) -> None:
        """A black hole: connections stay open, nothing arrives.

        On the upstream side, because downstream a server that closes the connection would end it at once.
        """
        self._add("timeout", "upstream", timeout=0)

    def reset(self) -> None:
        """Connections are reset when something is sent."""
        self._add("reset_peer", "upstream", timeout=0)

    def cut(self) -> None:
        """Open connections end, new ones are refused, until `heal`."""
        ask(self._url, {"enabled": False})

    def heal(self) -> None:
        """No faults any more."""
        for kind in self._laid:
            ask(f"{self._url}/toxics/{kind}", method="DELETE")
        self._laid.clear()
        ask(self._url, {"enabled": True})

    def remove(self) -> None:
        ask(self._url, method="DELETE")

    def _add(self, kind: str, stream: Literal["upstream", "downstream"], **attributes: int) -> None:
        ask(f"{self._url}/toxics", {"name": kind, "type": kind, "stream": stream, "attributes": attributes})
        self._laid.add(kind)
