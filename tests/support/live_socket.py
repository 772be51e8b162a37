"""A peer's socket in its own process, which a test tells line by line what to do.

`python live_socket.py`: reads a JSON object with the arguments of `credentials`, prints its endpoint, then obeys
lines: `connect NEIGHBOR ENDPOINT`, `send NEIGHBOR COUNT`, `poll` (until a hello of round 2 comes; prints what came).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Reconnected, Refused
from p2pfl.transport import Credentials, Keys, Token, ZmqTransport

LAST = 2  # the round of the greeting that ends a poll
SECONDS = 60.0


def hello(sender: int, round: int = 1) -> wire.Message:
    """A greeting."""
    return wire.Message(wire.Header(wire.VERSION, "run", "hello", sender, round))


def wire_frames(sender: int, round: int = 1) -> tuple[bytes, ...]:
    """The frames of a greeting."""
    return tuple(bytes(part) for part in wire.encode(hello(sender, round)))


def credentials(token: tuple[str, int, list[int]] | None = None, keys: tuple | None = None) -> Credentials | None:
    """Credentials from what JSON can say."""
    if keys is not None:
        return Keys(keys[0], keys[1], {int(peer): key for peer, key in keys[2].items()})
    return None if token is None else Token(token[0], token[1], frozenset(token[2]))


class LiveSocket:
    """The test's end. Leaving it ends the process and fails if that crashed."""

    def __init__(self, **proof: Any) -> None:
        here = Path(__file__)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[2]), *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, str(here)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._say(json.dumps(proof))
        self.endpoint = self._hear()

    def __enter__(self) -> LiveSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.kill()
        else:
            self.process.communicate()
        assert kind is not None or self.process.returncode == 0, f"ended with {self.process.returncode}"

    def kill(self) -> None:
        """End the process as the system would, with everything that it had to send."""
        self.process.kill()
        self.process.communicate()

    def connect(self, neighbor: int, endpoint: str) -> None:
        self._say(f"connect {neighbor} {endpoint}")
        self._hear()

    def send(self, neighbor: int, count: int, round: int = 1) -> None:
        self._say(f"send {neighbor} {count} {round}")
        self._hear()

    def poll(self) -> dict[str, Any]:
        """Let it poll until the last greeting.

        `came` counts greetings by sender, refusals and the rest by name.
        """
        self._say("poll")
        return dict(json.loads(self._hear()))

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it has ended with {self.process.wait(30)}"
        return line.strip()


def _poll(transport: ZmqTransport) -> dict[str, Any]:
    """Poll until the last greeting; returns the longest turn and the peak memory."""
    came: Counter[str] = Counter()
    peak = turn = 0.0
    deadline = time.monotonic() + SECONDS
    while not came["last"] and time.monotonic() < deadline:
        began = time.monotonic()
        events = transport.poll(0.0)
        turn = max(turn, time.monotonic() - began)
        for event in events or transport.poll(0.05):
            if isinstance(event, Received):
                header = event.message.header
                came["last" if header.round == LAST else f"from {header.sender}"] += 1
            elif isinstance(event, Refused):
                came[event.code] += 1
            elif isinstance(event, Reconnected):
                came["again"] += 1
        peak = max(peak, psutil.Process().memory_info().rss)
    return {"came": came, "peak": peak, "turn": turn}


def main() -> None:
    """The process."""
    proof = credentials(**json.loads(input()))
    with ZmqTransport("tcp://127.0.0.1:*", credentials=proof) as transport:
        print(transport.endpoint, flush=True)
        endpoints: dict[int, str] = {}
        me = getattr(proof, "me", 0)
        for line in sys.stdin:
            word, *rest = line.split()
            answer: object = ""
            if word == "connect":
                endpoints[int(rest[0])] = rest[1]
                transport.connect({int(rest[0]): rest[1]}, 1 << 20)
            elif word == "send":
                for _ in range(int(rest[1])):
                    transport.send(int(rest[0]), hello(me, int(rest[2])))
            else:
                answer = _poll(transport)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()


SECRET = "0123456789abcdef0123456789abcdef"


def login(sender: int, receiver: int) -> tuple[str, str]:
    return str(sender), Token(SECRET, sender, frozenset()).password(sender, receiver)
