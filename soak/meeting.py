"""Peers in network namespaces that find each other, by a folder and by a service.

`python -m soak.meeting`. Four peers on a ring, each in a network namespace with an address that no file names, are
started one by one in random order, with keys: once through a shared folder, where each makes its own key, and once
through `p2pfl rendezvous` in one more namespace, with the keys of the topology file. Both must end with the bits of
the same run in the simulator, which are those of the local launcher.
Everything happens within namespaces that end with this process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import secrets
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# Only imported, so that each peer, a fork of this process, need not do it again.
import p2pfl.experiment.single  # noqa: F401
from p2pfl import RunConfig, make_topology
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import save_topology
from p2pfl.transport.keyring import make_keys
from soak.links import address, build
from soak.network import PEERS, be_command, end_with_parent, enter

SERVICE = PEERS  # the namespace of the service
TIMEOUT = 300.0  # seconds for a run
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "soak.network:model",
    "batch_size": 16,
    "local_steps": 2,
    "rounds": 3,
    "lr": 0.02,
    "threads": 1,
}
SETTINGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _start(namespace: int, words: list[str], log: Path) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=be_command, args=(namespace, words, log))
    process.start()
    return process


def _until(text: str, log: Path, process: BaseProcess) -> str:
    """First line with a text in a process's output.

    Raises RuntimeError if it ends without one.
    """
    while process.is_alive():
        for line in log.read_text().splitlines() if log.exists() else ():
            if text in line:
                return line
        time.sleep(0.02)
    raise RuntimeError(log.read_text())


@contextlib.contextmanager
def _service(folder: Path, ring: Path, token: Path) -> Iterator[list[str]]:
    """Options by which peers find each other through a service.

    It ends with the context.
    """
    bind = f"tcp://{address(SERVICE)}:7300"
    log = folder / "service.txt"
    process = _start(SERVICE, ["rendezvous", str(ring), "--token-file", str(token), "--bind", bind], log)
    try:
        how = "start the peers with: "
        yield shlex.split(_until(how, log, process).partition(how)[2])
    finally:
        process.kill()
        process.join()


def _try(folder: Path, options: list[str], spread: float, seed: int, announce: bool) -> dict[str, Any]:
    """Start the peers in random order within `spread` seconds; returns the outcome."""
    chance = random.Random(seed)
    nodes, peers = chance.sample(range(PEERS), PEERS), {}
    try:
        for node in nodes:
            own = ["--announce", address(node)] if announce else []
            words = ["peer", str(folder / "ring.graphml"), "--node", str(node), *SETTINGS, *options, *own]
            peers[node] = _start(node, [*words, "--run-dir", str(folder / str(node))], folder / f"{node}.txt")
            time.sleep(chance.uniform(0, 2 * spread / PEERS))
        deadline = time.monotonic() + TIMEOUT
        for process in peers.values():
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [peers[node].exitcode for node in range(PEERS)]
    finally:
        for process in peers.values():
            process.kill()
            process.join()
    model = folder / "0" / "consensus.safetensors"
    lines = [(folder / f"{node}.txt").read_text() for node in range(PEERS)]
    announced = [f"announces tcp://{address(node)}:" in text for node, text in enumerate(lines)]
    failed = [text.splitlines()[-1:] for code, text in zip(codes, lines, strict=True) if code]
    return {
        "order": nodes,
        "ended": codes == [0] * PEERS,
        "announced": all(announced),
        "failed": failed,
        "model": model,
    }


def _simulate(folder: Path) -> None:
    """Run the same in the simulator, in this process."""
    torch.set_num_threads(1)
    options = RunConfig.of(**OPTIONS, run_dir=str(folder))
    Simulation(make_topology("ring", PEERS), options).run()


def _simulated(folder: Path) -> bytes:
    """Model of the same run in the simulator, whose bits are the launcher's."""
    process = multiprocessing.get_context("fork").Process(target=_simulate, args=(folder,))
    process.start()
    process.join(TIMEOUT)
    process.kill()
    return (folder / "consensus.safetensors").read_bytes()


def soak(folder: Path, spread: float, seed: int) -> dict[str, Any]:
    """Do both runs within the namespaces; returns figures and outcomes of checks."""
    build(PEERS + 1, seed)
    runs = {}
    for name in ("folder", "service"):
        (folder / name).mkdir()
        save_topology(make_topology("ring", PEERS), folder / name / "ring.graphml")
    simulated = _simulated(folder / "simulated")
    own_keys = ["--rendezvous", str(folder / "meet"), "--keys", str(folder / "own-keys")]
    runs["folder"] = _try(folder / "folder", own_keys, spread, seed, announce=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    make_keys(folder / "service" / "ring.graphml", folder / "keys")
    with _service(folder / "service", folder / "service" / "ring.graphml", token) as options:
        options += ["--keys", str(folder / "keys")]
        runs["service"] = _try(folder / "service", options, spread, seed + 1, announce=False)
    return {
        "orders": {name: run["order"] for name, run in runs.items()},
        "failed": {name: run["failed"] for name, run in runs.items() if run["failed"]},
        "checks": {
            "all end": all(run["ended"] for run in runs.values()),
            "each announces its namespace's address": all(run["announced"] for run in runs.values()),
            "the bits of the simulator": all(
                run["model"].exists() and run["model"].read_bytes() == simulated for run in runs.values()
            ),
        },
    }


def main() -> int:
    """Print the verdict; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spread", type=float, default=20.0, help="seconds in which peers start (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the orders and times of starting")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is None:
        with tempfile.TemporaryDirectory(prefix="p2pfl-soak-") as name:
            return enter("soak.meeting", name)
    threading.Thread(target=end_with_parent, daemon=True).start()
    figures = soak(arguments.inside, arguments.spread, arguments.seed)
    print(json.dumps(figures))
    failed = [name for name, held in figures["checks"].items() if not held]
    print(f"FAILED: {', '.join(failed)}" if failed else "all found each other")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
