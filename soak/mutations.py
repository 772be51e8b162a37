"""Mutated messages against a live swarm, which must end with the same weights.

`python -m soak.mutations --messages 1000000`. No peer may crash, and memory must stay bounded. One run records its
messages and its weights; then the same run is repeated while attackers send mutations of these messages to every peer.
The attackers have been admitted: each holds the run's token and the number of a neighbor of its victims. A mutation
that is still a message of this run from that peer gets another number as its sender.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch
import zmq

from p2pfl import RunConfig, data, make_topology
from p2pfl.errors import ProtocolError
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.worker import run
from p2pfl.protocol import wire
from p2pfl.run import checkpoint
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.records import read_rounds
from p2pfl.transport import Token, Transport, ZmqTransport

PEERS = 3
ATTACKERS = 3  # processes, which number themselves after the peers
RATE = 8_000  # messages a second of each
SECRET = secrets.token_hex(32)
GROWTH_BYTES = 768 << 20  # that an attacked peer may take beyond that of the undisturbed run
KEPT = 40  # recorded messages of each kind
WHOLE_BODIES = 0.01  # of the mutated chunks; the others' bodies are cut, for speed
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "vgg11",
    "width": 0.125,
    "local_steps": 1,
    "batch_size": 16,
    "eval_samples": 32,
    "threads": 1,
    "transport": "tcp",
    "lr": 0.02,
}
Frames = list[bytes]


class _Recorder:
    """Transport that records the first messages of each kind before it sends them."""

    def __init__(self, transport: Transport) -> None:
        self.endpoint = transport.endpoint
        self.kept: dict[str, list[Frames]] = {}
        self._transport = transport
        self.connect, self.discard, self.flushed = transport.connect, transport.discard, transport.flushed
        self.poll, self.wake, self.close = transport.poll, transport.wake, transport.close
        self.redirect = transport.redirect

    def send(self, neighbor: int, message: wire.Message) -> int:
        kept = self.kept.setdefault(message.header.kind, [])
        if len(kept) < KEPT:
            kept.append([bytes(frame) for frame in wire.encode(message)])
        return self._transport.send(neighbor, message)


def _work(spec: messages.WorkerSpec, recording: Path | None, secret: str) -> None:
    torch.set_num_threads(1)
    everybody = frozenset(range(PEERS + ATTACKERS))
    made: list[_Recorder] = []

    def make(bind: str) -> Transport:
        transport = ZmqTransport(bind, credentials=Token(secret, spec.index, everybody))
        if not recording:
            return transport
        made.append(_Recorder(transport))
        return made[0]

    code = run(spec, lambda message: None, Control(), make)
    if recording:
        recording.write_bytes(msgspec.msgpack.encode([f for kept in made[0].kept.values() for f in kept]))
    sys.exit(code)


def mutate(frames: Frames, rng: random.Random, run_id: str) -> Frames:
    """Mutated message, never one that a peer of this run could have sent."""
    head, body = frames
    if body and rng.random() > WHOLE_BODIES:
        body = body[: rng.randrange(64)]
    way = rng.randrange(7)
    if way == 0:
        flipped = bytearray(head)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        head = bytes(flipped)
    elif way == 1:
        head = head[: rng.randrange(len(head))]
    elif way == 2:
        head, body = body[: wire.HEADER_BYTES * 2], head
    elif way == 3:
        fields = msgspec.msgpack.decode(head)
        strange: list[Any] = [
            None,
            -1,
            2**63,
            0,
            1,
            float("nan"),
            "x" * 100,
            [],
            {},
            "chunk",
            {str(i): 1.0 for i in range(99)},
        ]
        fields[rng.randrange(len(fields))] = rng.choice(strange)
        head = msgspec.msgpack.encode(fields)
    elif way == 4:
        fields = msgspec.msgpack.decode(head)
        fields[4] = rng.choice([0, fields[4] + 1, wire.MAX_ROUND, wire.MAX_ROUND + 1])
        head = msgspec.msgpack.encode(fields)
    elif way == 5:
        return [head, body, *[rng.randbytes(rng.randrange(40)) for _ in range(rng.randint(1, 20))]]
    return _estranged([head, body], rng, run_id)  # way 6: an old message as it was


def _estranged(frames: Frames, rng: random.Random, run_id: str) -> Frames:
    try:
        header = wire.decode(frames).header
    except ProtocolError:
        return frames
    if header.run == run_id and header.sender < PEERS:
        header = msgspec.structs.replace(header, sender=rng.randrange(PEERS, wire.MAX_PEERS))
    return [msgspec.msgpack.encode(header), frames[1]]


# More than 6 parameters: they travel one by one to a new process.
def _attack(
    endpoints: list[str], folder: Path, count: int, seed: int, run_id: str, credentials: Token, sent: Any
) -> None:
    """Send mutations of the recorded messages, at about the rate of receipt."""
    samples = [frames for path in folder.glob("*.sent") for frames in msgspec.msgpack.decode(path.read_bytes())]
    rng, context = random.Random(seed), zmq.Context()

    def connected(victim: int) -> zmq.Socket[bytes]:
        link = context.socket(zmq.DEALER)
        link.setsockopt(zmq.LINGER, 0)
        link.setsockopt(zmq.SNDTIMEO, 1_000)
        credentials.secure_client(link, victim)
        link.connect(endpoints[victim])
        return link

    links = [connected(victim) for victim in range(len(endpoints))]
    began = time.monotonic()
    while sent.value < count:
        frames, victim = mutate(rng.choice(samples), rng, run_id), rng.randrange(len(links))
        try:
            links[victim].send_multipart(frames)
            sent.value += 1
        except zmq.Again:  # closed because of a flood: back as soon as it is let in
            links[victim].close()
            links[victim] = connected(victim)
        time.sleep(max(0.0, began + sent.value / RATE - time.monotonic()))
    threading.Event().wait()  # until it is ended: its sockets still deliver


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _swarm(folder: Path, rounds: int, seed: int, recording: bool, count: int) -> dict[str, Any]:
    """Run the swarm, attacked with the first run's messages unless this is the first."""
    config = RunConfig.of(**OPTIONS, rounds=rounds, run_dir=str(folder / ("peace" if recording else "attacked")))
    topology = make_topology("ring", PEERS)
    run_dir, run_id = create_run_dir(topology, config), run_fingerprint(assign_roles(config, topology), config)
    endpoints = [f"tcp://127.0.0.1:{port}" for port in _free_ports(PEERS)]
    dataset = data.prepare("digits", None, lambda *_: None)
    context = multiprocessing.get_context("spawn")
    workers = []
    for index, bind in enumerate(endpoints):
        spec = messages.WorkerSpec(
            config=config, run_dir=run_dir, dataset=dataset, index=index, run=run_id, settings=run_id,
            bind=bind, endpoints=dict(enumerate(endpoints)),
        )  # fmt: skip
        workers.append(
            context.Process(target=_work, args=(spec, folder / f"{index}.sent" if recording else None, SECRET))
        )
    for worker in workers:
        worker.start()
    counts = [context.Value("q", 0, lock=False) for _ in range(0 if recording else ATTACKERS)]
    attackers = []
    for number, sent in enumerate(counts):
        proof = Token(SECRET, PEERS + number, frozenset(range(PEERS)))
        share = (endpoints, folder, -(-count // ATTACKERS), seed + number, run_id, proof, sent)
        attackers.append(context.Process(target=_attack, args=share, daemon=True))
        attackers[-1].start()
    watched = _watch(workers, counts, count)
    for attacker in attackers:
        attacker.terminate()
        attacker.join()
    return {
        "codes": [worker.exitcode for worker in workers],
        **watched,
        **_results([run_dir / "peers" / topology.node_path(index) for index in range(PEERS)]),
    }


def _watch(workers: list[Any], counts: list[Any], count: int) -> dict[str, Any]:
    """Wait for all workers; returns their peak of memory, seconds, and messages sent."""
    began, peak, done_at = time.monotonic(), 0, None
    while any(worker.is_alive() for worker in workers):
        peak = max([peak, *(_memory(worker.pid) for worker in workers)])
        if done_at is None and sum(sent.value for sent in counts) >= count > 0:
            done_at = time.monotonic() - began
        workers[0].join(0.2)
    seconds, sent = time.monotonic() - began, sum(sent.value for sent in counts)
    return {"peak": peak, "seconds": seconds, "sent": sent, "sent_after": done_at}


def _results(folders: list[Path]) -> dict[str, Any]:
    """Weights, accuracies and refused messages that the peers recorded."""
    rounds_of = [read_rounds(path) for path in folders]
    refused: Counter[str] = Counter()
    for record in (record for records in rounds_of for record in records):
        refused.update(record.refused or {})
    return {
        "weights": [checkpoint.load(max(path.glob("checkpoint/round-*.safetensors"))).x for path in folders],
        "accuracy": [records[-1].test_accuracy for records in rounds_of],
        "refused": dict(refused),
    }


def _memory(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def main() -> int:
    """Do both runs and print the verdict; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=600, help="enough that learning outlasts the messages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        peace = _swarm(Path(name), options.rounds, options.seed, True, 0)
        attacked = _swarm(Path(name), options.rounds, options.seed, False, options.messages)
    checks = {
        "no crash": peace["codes"] == attacked["codes"] == [0] * PEERS,
        "memory bounded": attacked["peak"] <= peace["peak"] + GROWTH_BYTES,
        "same weights": all(map(torch.equal, peace["weights"], attacked["weights"])),
        "all sent while learning": attacked["sent"] >= options.messages,
        "refused and recorded": sum(attacked["refused"].values()) >= 0.9 * attacked["sent"],
    }
    figures = {key: attacked[key] for key in ("sent", "sent_after", "seconds", "accuracy", "refused", "codes")}
    figures |= {"peak_mb": attacked["peak"] >> 20, "peace_peak_mb": peace["peak"] >> 20}
    figures |= {"peace_seconds": peace["seconds"], "peace_accuracy": peace["accuracy"]}
    print(json.dumps({**figures, "checks": checks}))
    failed = [check for check, passed in checks.items() if not passed]
    print(f"FAILED: {', '.join(failed)}" if failed else f"passed: {attacked['sent']} mutated messages, same weights")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
