"""Which addresses are never connected to, whatever leads there; and that the one looked at is the one used."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.connection import Forbidden, checked_host, connect, objection
from alerting.deliver import Undelivered
from alerting.sinks.http import Endpoint
from alerting.sinks.webhook import Webhook
from tests.services.tls import Authority
from tests.services.web import Receiver

NEVER = {
    "169.254.169.254": "link-local",
    "169.254.170.2": "link-local",
    "fe80::1": "link-local",
    "fd00:ec2::254": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "0.0.0.0": "unspecified",  # noqa: S104 nothing is bound here
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "reserved",
    "240.0.0.1": "reserved",
}
PRIVATE = ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1"]


@pytest.mark.parametrize("address", NEVER)
def test_what_no_receiver_has_is_refused_in_every_guise(address: str) -> None:
    why = NEVER[address]
    found = ip_address(address)
    assert why in objection(found, private=True)
    with pytest.raises(ValueError, match=why):
        checked_host(address, private=True)
    if isinstance(found, IPv4Address):
        for guise in (
            f"::ffff:{address}",
            f"64:ff9b::{address}",
            str(IPv6Address((0x2002 << 112) | (int(found) << 80))),
        ):
            assert why in objection(ip_address(guise), private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_a_matter_of_the_option(address: str) -> None:
    assert objection(ip_address(address), private=True) == ""
    assert objection(ip_address(address), private=False) == "a private address"


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_the_one_it_leads_to(address: IPv4Address) -> None:
    for private in (True, False):
        said = objection(address, private=private)
        assert objection(IPv6Address(f"::ffff:{address}"), private=private) == said
        assert objection(IPv6Address(f"64:ff9b::{address}"), private=private) == said


@pytest.mark.parametrize(
    "host", ["2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1", "0x7f000001", "1.2.3.4.", "00000177.1", "x.0x1"]
)
def test_addresses_in_another_guise_are_refused_without_asking(host: str) -> None:
    with pytest.raises(ValueError, match="four decimal numbers"):
        checked_host(host, private=True)
    with pytest.raises(ValueError, match="four decimal numbers"):
        Webhook(f"http://{host}/").open()


@pytest.mark.parametrize("host", ["alertmanager", "hooks.slack.com", "10.0.0.7", "::1", "a1.b2", "4chan.org", "x.1e"])
def test_names_and_plain_addresses_pass(host: str) -> None:
    assert checked_host(host, private=True) == host


class Names:
    """A resolver whose answers change with each question."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


def endpoint(receiver: Receiver, names: Names, *, private: bool = True) -> Endpoint:
    port = receiver.url.rpartition(":")[2]
    return Endpoint(f"http://hook.example:{port}/", {}, 2.0, private=private, resolve=names)


def test_a_name_is_looked_up_once_and_the_address_looked_at_is_the_one_connected_to(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    hook = endpoint(receiver, names)
    hook.post(b"{}")
    assert names.asked == 1
    (call,) = receiver.calls
    assert call.headers["host"].startswith("hook.example:")  # the name, though the address was connected to
    with pytest.raises(Undelivered, match=r"hook\.example is a link-local address") as told:
        hook.post(b"{}")
    assert told.value.retry  # its name server may come to its senses
    assert len(receiver.calls) == 1


def test_of_several_addresses_only_allowed_ones_are_tried(receiver: Receiver) -> None:
    endpoint(receiver, Names(["169.254.169.254", "::ffff:169.254.169.254", "127.0.0.1"])).post(b"{}")
    assert len(receiver.calls) == 1
    with pytest.raises(Undelivered, match="private address"):
        endpoint(receiver, Names(["127.0.0.1", "10.0.0.1"]), private=False).post(b"{}")


def test_a_host_without_an_address_is_no_success() -> None:
    with pytest.raises(Forbidden, match="no address"):
        connect("nobody.example", 80, 1.0, private=True, resolve=Names([]))


def test_the_next_address_is_tried_where_the_first_does_not_answer(receiver: Receiver) -> None:
    endpoint(receiver, Names(["127.0.0.2", "127.0.0.1"])).post(b"{}")  # the receiver listens on the second alone
    assert len(receiver.calls) == 1


def _read_whole(stream: socket.socket, end: bytes) -> bytes:
    """A request up to its body, which comes by itself: hung up on with the body unread, the system takes the answer
    back (90 times of 300)."""
    said = b""
    while not said.endswith(end) and (more := stream.recv(65536)):
        said += more
    return said


def test_the_certificate_is_held_against_the_name_and_not_the_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "hooks")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server", "hook"))
    said: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            plain, _peer = server.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as stream:
                    said.append(_read_whole(stream, b"\r\n\r\n{}"))
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                plain.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        thread = Thread(target=serve)
        thread.start()
        for name, resolved in (("localhost", True), ("hook.example", False)):
            hook = Endpoint(
                f"https://{name}:{port}/", {}, 5.0, str(authority.bundle), resolve=lambda _host, _port: ["127.0.0.1"]
            )
            if resolved:
                hook.post(b"{}")
            else:
                with pytest.raises(Undelivered, match="certificate not trusted"):
                    hook.post(b"{}")
        thread.join()
    assert len(said) == 1
    assert b"Host: localhost" in said[0]
