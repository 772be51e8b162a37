"""Peers in separate network namespaces, over links that delay, lose and break.

`python -m soak.network`. Four peers are started (`run_peers.py peer`, as forks of this process), each in a network
namespace that this process makes (iproute2): over good links, and twice over bad ones, of which one peer's is cut for
ten seconds. With the usual timeouts all peers wait, and no bit differs; with short ones the others continue without the
one that is cut off. Timeouts grow with the slowest round, so there the cut lasts until they continue, and all train
slowly until that peer is back. Linux makes links bad by itself where it has netem; where it has not, all packets pass
through soak/switch.py, which does the same to them.
Everything happens within namespaces of network, mounts and processes that end with this process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import runpy
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from p2pfl import make_topology
from p2pfl.run.records import RoundRecord, read_rounds
from p2pfl.topology import save_topology
from soak.links import Links, address, build, namespace
from soak.sandbox import sandbox

ROOT = Path(__file__).parent.parent
PEERS = 4  # on a ring
VICTIM = 2  # whose link is cut
POINTS = 2.0  # that the accuracy may differ by, in percent
TIMEOUT = 300.0  # seconds that the peers may take for a round, and all together for the end
PORT = 7000
CLONE_NEWNET = 0x40000000  # of setns, which Python has from 3.12 on
STEP_SECONDS = 0.05
SLOW_SECONDS = 0.5  # a step, while the one that was cut off is on its way back: TCP tries again after 6 s and more
SLOW_FILE = "P2PFL_SOAK_SLOW"  # names the file that says so
FELT_SECONDS = 60.0  # within which somebody must have been given up, or be back
SETTINGS = shlex.split(
    "--dataset digits --model soak.network:model --batch-size 16 --local-steps 4 --lr 0.02 --threads 1 --insecure"
    " --eval-every 1000000"
)
SHORT_TIMEOUTS = shlex.split(
    "--grace-timeout 2 --round-timeout 4 --min-peers 2"
)  # one that is cut off loses two neighbors


def model(num_classes: int) -> nn.Module:
    """Model small enough for a lossy link that still learns."""
    return nn.Sequential(_Slow(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, num_classes))


class _Slow(nn.Module):
    """Model that trains as slowly as a large one.

    Otherwise the peer that is cut off would finish before the others.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(SLOW_SECONDS if os.path.exists(os.environ.get(SLOW_FILE, "")) else STEP_SECONDS)
        return x


def be_command(peer: int, words: list[str], log: Path, slow_file: Path | None = None) -> None:
    """Become `run_peers.py WORDS` in a peer's namespace.

    A fork of this process, since four new interpreters that import torch take longer than a short run.
    """
    with open(f"/var/run/netns/{namespace(peer)}") as entered:
        if ctypes.CDLL(None, use_errno=True).setns(entered.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace(peer)}")
    with open(log, "wb") as file, open(os.devnull, "rb") as nothing:
        for number, stream in enumerate((nothing, file, file)):
            os.dup2(stream.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    os.environ[SLOW_FILE] = "" if slow_file is None else str(slow_file)
    sys.argv = [str(ROOT / "run_peers.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


@contextlib.contextmanager
def _swarm(folder: Path, rounds: int, *options: str) -> Iterator[list[BaseProcess]]:
    """Peers, each in its namespace; none outlives the context."""
    topology = make_topology("ring", PEERS)
    for peer in range(PEERS):
        topology.graph.nodes[peer].update(host=address(peer), port=PORT)
    folder.mkdir()
    save_topology(topology, folder / "ring.graphml")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    peers: list[BaseProcess] = []
    try:
        for peer in range(PEERS):
            words = ["peer", str(folder / "ring.graphml"), "--node", str(peer)]
            words += [*SETTINGS, *options, "--rounds", str(rounds)]
            words += ["--token-file", str(token), "--run-dir", str(folder / str(peer))]
            output = folder / f"{peer}.txt"
            output.touch()  # read from now on, whenever the process begins to write
            given = (peer, words, output, folder / "slow")
            peers.append(multiprocessing.get_context("fork").Process(target=be_command, args=given))
            peers[-1].start()
        yield peers
    finally:
        for process in peers:
            process.kill()
            process.join()


def _until_round(folder: Path, peers: Sequence[BaseProcess], round: int) -> None:
    """Wait until the victim has reached that round, or a process has ended."""
    deadline = time.monotonic() + TIMEOUT
    line = f": round {round}/"
    while line not in (folder / f"{VICTIM}.txt").read_text():
        if time.monotonic() > deadline or any(not process.is_alive() for process in peers):
            return
        time.sleep(0.1)


def _until_both_say(line: str, folder: Path, peers: Sequence[BaseProcess]) -> None:
    """Wait until both neighbors of the victim log a line, or a process has ended.

    Training slows down as soon as a peer continues without another: the victim alone would soon be at its last round.
    """
    deadline = time.monotonic() + FELT_SECONDS
    waiting = {VICTIM - 1, VICTIM + 1}
    while waiting and time.monotonic() < deadline and all(process.is_alive() for process in peers):
        time.sleep(0.02)
        if any("continues without peer" in (folder / f"{peer}.txt").read_text() for peer in range(PEERS)):
            (folder / "slow").touch()
        waiting = {peer for peer in waiting if line not in (folder / f"{peer}.txt").read_text()}


def _end(peers: Sequence[BaseProcess]) -> list[int | None]:
    """Exit status of each peer; None for those that exceed the timeout."""
    deadline = time.monotonic() + TIMEOUT
    for process in peers:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process.exitcode for process in peers]


@dataclass
class _Outcome:
    """Outcome of one run: exit statuses and records."""

    codes: list[int | None]
    seconds: float
    cut_seconds: float
    records: list[list[RoundRecord]]
    model: bytes
    last_lines: list[str]

    @property
    def ended(self) -> bool:
        return self.codes == [0] * PEERS

    @property
    def accuracy(self) -> float:
        """Accuracy of the consensus model, in percent."""
        return 100 * ((self.records[0][-1].test_accuracy if self.records[0] else None) or 0.0)

    @property
    def rounds_without(self) -> dict[int, int]:
        """Number of rounds in which each peer lacked a neighbor."""
        return {peer: sum(r.absent is not None for r in records) for peer, records in enumerate(self.records)}

    def is_back(self) -> bool:
        """Whether no peer lacks a neighbor at the end."""
        return all(records and records[-1].absent is None for records in self.records)


def _try(folder: Path, links: Links, rounds: int, cut: float, *options: str, until_felt: bool = False) -> _Outcome:
    """Run the swarm, and cut the victim off after a third of the rounds.

    The cut lasts `cut` seconds, or until the others continue without the victim if `until_felt`.
    """
    began, lasted = time.monotonic(), 0.0
    with _swarm(folder, rounds, *options) as peers:
        if cut:
            _until_round(folder, peers, max(1, rounds // 3))
            links.cut(VICTIM, True)
            since = time.monotonic()
            if until_felt:
                _until_both_say(f"continues without peer {VICTIM} ", folder, peers)
            time.sleep(max(0.0, cut - (time.monotonic() - since)))
            links.cut(VICTIM, False)
            lasted = time.monotonic() - since
            if until_felt:
                _until_both_say(f"peer {VICTIM} is back ", folder, peers)
                (folder / "slow").unlink(missing_ok=True)
        codes = _end(peers)
    model = folder / "0" / "consensus.safetensors"
    return _Outcome(
        codes=codes,
        seconds=time.monotonic() - began,
        cut_seconds=lasted,
        records=[read_rounds(folder / str(peer) / "peers" / str(peer)) for peer in range(PEERS)],
        model=model.read_bytes() if model.exists() else b"",
        last_lines=[line for p in range(PEERS) for line in (folder / f"{p}.txt").read_text().splitlines()[-1:]],
    )


def soak(folder: Path, rounds: int, cut: float, seconds: float, loss: float, seed: int) -> dict[str, Any]:
    """Do all runs within the namespaces; returns figures and outcomes of checks."""
    links = build(PEERS, seed)
    good = _try(folder / "good", links, rounds, 0.0)
    links.worsen(seconds, loss)
    bad = _try(folder / "bad", links, rounds, cut)
    hasty = _try(folder / "hasty", links, rounds, cut, *SHORT_TIMEOUTS, until_felt=True)
    runs = {"good": good, "bad": bad, "hasty": hasty}
    without = hasty.rounds_without
    return {
        "links": type(links).__name__.lower(),
        "rounds": rounds,
        "accuracy": {name: round(run.accuracy, 2) for name, run in runs.items()},
        "seconds": {name: round(run.seconds, 1) for name, run in runs.items()},
        "cut_seconds": {name: round(run.cut_seconds, 1) for name, run in runs.items()},
        "rounds_without_somebody": without,
        "failed": {name: run.last_lines for name, run in runs.items() if not run.ended},
        "checks": {
            "all end": all(run.ended for run in runs.values()),
            "long timeouts change no bit": bool(bad.model) and bad.model == good.model,
            "the cut is felt without": bool(without[VICTIM - 1] and without[VICTIM + 1]),
            "who was cut off comes back": hasty.is_back(),
            "it learns": min(bad.accuracy, hasty.accuracy) >= good.accuracy - POINTS,
        },
    }


def enter(module: str, folder: str) -> int:
    """Run a module's command in the sandbox; returns the exit status."""
    words, reason = sandbox()
    if not words:
        print(f"skipped: {reason}")
        return 0
    program = [*words, sys.executable, "-m", module, *sys.argv[1:], "--inside", folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(program, env=environment, cwd=ROOT, stdin=subprocess.PIPE)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 130
    finally:
        process.kill()  # and with it all that is in the sandbox
        process.wait()


def end_with_parent() -> None:
    """End this process, and thereby the sandbox, when stdin ends."""
    os.read(0, 1)  # a buffered one would hold a lock that the interpreter needs at its own end
    os._exit(1)


def main() -> int:
    """Print the verdict; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=120, help="rounds of each run (default: 120)")
    parser.add_argument("--cut", type=float, default=10.0, help="seconds that one peer is cut off (default: 10)")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that a packet takes (default: 0.05)")
    parser.add_argument("--loss", type=float, default=0.05, help="share of packets that get lost (default: 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of the losses, where it is not the kernel that draws them")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is None:
        with tempfile.TemporaryDirectory(prefix="p2pfl-soak-") as name:
            return enter("soak.network", name)
    threading.Thread(target=end_with_parent, daemon=True).start()
    a = arguments
    figures = soak(a.inside, a.rounds, a.cut, a.delay, a.loss, a.seed)
    print(json.dumps(figures))
    failed = [name for name, held in figures["checks"].items() if not held]
    print(f"FAILED: {', '.join(failed)}" if failed else "the swarm learned on")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
