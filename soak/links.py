"""Network namespaces, one for each peer, with links that can be worsened and cut."""

from __future__ import annotations

import random
import subprocess
from typing import Protocol

from soak.switch import Switch


class Links(Protocol):
    """Network that connects the namespaces."""

    def plug(self, peer: int) -> str:
        """Put a device into a peer's namespace; returns its name."""

    def worsen(self, seconds: float, loss: float) -> None:
        """Delay each packet from now on, and lose it with the given probability."""

    def cut(self, peer: int, cut: bool) -> None:
        """Cut a peer off, or connect it again."""


class Netem:
    """Virtual cables to a bridge; the kernel delays and drops packets."""

    def __init__(self, peers: int) -> None:
        self._peers = peers
        _ip("link", "add", "switch", "type", "bridge")
        _ip("link", "set", "switch", "up")

    def plug(self, peer: int) -> str:
        _ip("link", "add", f"port{peer}", "type", "veth", "peer", "name", "cable", "netns", namespace(peer))
        _ip("link", "set", f"port{peer}", "master", "switch", "up")
        return "cable"

    def worsen(self, seconds: float, loss: float) -> None:
        for peer in range(self._peers):
            words = ["netem", "delay", f"{1000 * seconds:g}ms", "loss", f"{100 * loss:g}%"]
            _run("tc", "-n", namespace(peer), "qdisc", "replace", "dev", "cable", "root", *words)

    def cut(self, peer: int, cut: bool) -> None:
        _ip("link", "set", f"port{peer}", "down" if cut else "up")


class Taps:
    """Devices whose packets this process forwards."""

    def __init__(self, seed: int) -> None:
        self._switch = Switch(random.Random(seed))

    def plug(self, peer: int) -> str:
        device = f"tap{peer}"
        self._switch.add(device)
        _ip("link", "set", device, "netns", namespace(peer))
        return device

    def worsen(self, seconds: float, loss: float) -> None:
        self._switch.seconds, self._switch.loss = seconds, loss

    def cut(self, peer: int, cut: bool) -> None:
        self._switch.cut = {peer} if cut else set()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, text=True)


def _ip(*words: str) -> None:
    _run("ip", *words)


def namespace(peer: int) -> str:
    return f"peer{peer}"


def address(peer: int) -> str:
    return f"10.77.0.{peer + 1}"


def _has_netem() -> bool:
    words = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def build(peers: int, seed: int) -> Links:
    """Make the namespaces and the links between them."""
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")  # where iproute2 keeps its namespaces; only this process sees it
    links: Links = Netem(peers) if _has_netem() else Taps(seed)
    for peer in range(peers):
        _ip("netns", "add", namespace(peer))
        device = links.plug(peer)
        _ip("-n", namespace(peer), "address", "add", f"{address(peer)}/24", "dev", device)
        _ip("-n", namespace(peer), "link", "set", device, "up")
        _ip("-n", namespace(peer), "link", "set", "lo", "up")
    return links
