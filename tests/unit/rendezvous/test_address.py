"""Addresses that peers announce, and where they listen."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from p2pfl.errors import ConfigError
from p2pfl.rendezvous.address import Announced, announced, is_own, own_host
from p2pfl.rendezvous.entry import is_address


def test_the_option_comes_before_the_file_and_the_file_before_the_machine() -> None:
    node = {"host": "127.0.0.1", "port": 7101}
    assert announced(None, node) == Announced("127.0.0.1", 7101, "tcp://127.0.0.1:7101")
    assert announced("127.0.0.2", node) == Announced("127.0.0.2", 7101, "tcp://127.0.0.2:7101")
    assert announced("127.0.0.2:7200", node) == Announced("127.0.0.2", 7200, "tcp://127.0.0.2:7200")
    assert announced("127.0.0.1", {}) == Announced("127.0.0.1", None, "tcp://127.0.0.1:*")
    own = announced(None, {})
    assert own.bind == (f"tcp://[{own.host}]:*" if ":" in own.host else f"tcp://{own.host}:*")


def test_a_host_that_is_not_this_machine_s_is_announced_and_all_addresses_listen() -> None:
    assert announced("peer-3.swarm.invalid:7000", {}) == Announced("peer-3.swarm.invalid", 7000, "tcp://*:7000")
    assert announced("192.0.2.7", {}).bind == "tcp://*:*"


def test_the_port_is_the_bound_one_unless_it_was_given() -> None:
    assert Announced("10.0.0.1", None, "tcp://10.0.0.1:*").address("tcp://10.0.0.1:4711") == "tcp://10.0.0.1:4711"
    assert Announced("::1", None, "tcp://[::1]:*").address("tcp://[::1]:4711") == "tcp://[::1]:4711"
    assert Announced("name", 7000, "tcp://*:7000").address("tcp://[::]:7000") == "tcp://name:7000"


@pytest.mark.parametrize(
    ("option", "host", "port"), [("[::1]:70", "::1", 70), ("::1", "::1", None), ("[::1]", "::1", None)]
)
def test_ipv6(option: str, host: str, port: int | None) -> None:
    found = announced(option, {})
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    "option", ["", ":7000", "a b", "host:", "host:0", "host:70000", "host:x", "tcp://host:1", "*:7"]
)
def test_what_is_no_host_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=r"--announce .*: must be HOST or HOST:PORT"):
        announced(option, {})


@pytest.mark.parametrize("option", ["0.0.0.0", "0.0.0.0:7000", "[::]:7000"])
def test_what_nobody_could_connect_to_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="no address that neighbors could connect to"):
        announced(option, {})


def test_an_own_address_is_found() -> None:
    assert is_address(f"tcp://{own_host()}:1") or ":" in own_host()
    assert own_host("127.0.0.1") == "127.0.0.1", "a service on this machine alone is for peers on this machine"
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")
    assert not is_own("name.invalid")
    assert ip_address(own_host().partition("%")[0])
