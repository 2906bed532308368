"""Connections to destinations: to an address that was looked at, for a limited time.

What a reader would get wrong: a name is looked up once, and the connection goes to the very address that was allowed.
Looking it up to check and leaving the lookup to the connection would let the name's owner answer differently the second
time (DNS rebinding) and lead us to the cloud's metadata service, which hands out credentials to whoever asks.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]  # raises `socket.gaierror`

# Metadata services that are not link-local: AWS and Google over IPv6, Azure, Alibaba, Oracle.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"))
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NUMERIC = re.compile(r"(?:^|\.)(?:\d+|0[xX][0-9a-fA-F]*)\.?$")  # hosts that a resolver may read as an IPv4 address


class Forbidden(OSError):
    """No address of the host may be connected to. The text names the host and says why."""


def objection(address: Address, *, private: bool) -> str:
    """Why nothing may be sent there; empty where it may.

    Link-local (where clouds keep their metadata), multicast, unspecified and reserved addresses are never a receiver.
    Private ones and loopback often are, inside a cluster; `private` false refuses them, too.

    >>> objection(ip_address("::ffff:169.254.169.254"), private=True)
    'a link-local address'
    >>> objection(ip_address("10.0.0.7"), private=True), objection(ip_address("10.0.0.7"), private=False)
    ('', 'a private address')
    """
    address = _embedded(address)
    if address in _METADATA:
        return "a metadata service"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified or (address.version == 4 and address.packed[0] == 0):
        return "an unspecified address"
    if address.is_reserved and not address.is_loopback:  # ::1 lies in the reserved ::/8
        return "a reserved address"
    return "" if private or address.is_global else "a private address"


def _embedded(address: Address) -> Address:
    """The IPv4 address that packets to this IPv6 one reach in the end, where there is one."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def checked_host(host: str, *, private: bool) -> str:
    """The host of a configured URL; ValueError where it can be refused without asking a resolver.

    An IPv4 address in another guise than four decimal numbers (`2130706433`, `0177.0.0.1`, `0x7f.1`) is refused: people
    read it as one host and resolvers as another.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        if _NUMERIC.search(host):
            raise ValueError("the host is a number; write an IPv4 address as four decimal numbers") from None
        return host
    why = objection(address, private=private)
    if why:
        raise ValueError(f"the host is {why}, where nothing may be sent")
    return host


def lookup(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, in the order the system prefers. The system's resolver has its own patience."""
    found: list[tuple[Any, ...]] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def connect(host: str, port: int, timeout: float, *, private: bool, resolve: Resolve = lookup) -> socket.socket:
    """A TCP connection to an allowed address of the host, each tried in turn within `timeout` seconds together.

    The socket keeps that timeout. Raises `Forbidden` where no address may be connected to, and `OSError`.
    """
    deadline = time.monotonic() + timeout
    addresses = resolve(host, port)
    objections = [objection(ip_address(address.partition("%")[0]), private=private) for address in addresses]
    allowed = [address for address, why in zip(addresses, objections, strict=True) if not why]
    if not allowed:
        why = objections[0] if objections else "no address"
        raise Forbidden(f"{host} is {why}, where nothing may be sent")
    trouble: OSError | None = None
    for address in allowed:
        try:
            connection = socket.create_connection((address, port), max(deadline - time.monotonic(), 0.001))
        except OSError as error:
            trouble = error
        else:
            connection.settimeout(timeout)
            return connection
    assert trouble is not None
    raise trouble


@contextmanager
def limited(stream: Callable[[], socket.socket | None], seconds: float) -> Iterator[None]:
    """Hangs up, and raises TimeoutError, when what is done with a socket takes longer than this in all.

    A socket's own timeout starts anew with every byte received, so a server that trickles would hold us for ever.
    `stream` gives the socket of the moment, as one that becomes encrypted is another one.
    """
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        held = stream()
        try:
            if held is not None:
                held.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # gone already

    watchdog = threading.Timer(max(0.0, seconds), hang_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        if late.is_set():  # what was cut off may look complete
            raise TimeoutError


def cause(error: Exception) -> str:
    """Why an exchange failed, in words for operators that hold neither a URL nor a secret."""
    if isinstance(error, Forbidden):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "host name not found"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, http.client.HTTPException | ConnectionError):
        return "connection closed before an answer came"
    return str(error.strerror or type(error).__name__) if isinstance(error, OSError) else type(error).__name__
