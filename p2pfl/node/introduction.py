"""Introduction of a peer with its own data, before its model is built."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from p2pfl import data
from p2pfl.errors import CheckpointError, ConfigError, Interrupted, NeighborError, unwritable
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.system import SystemClock
from p2pfl.protocol.introduction import MOST_CLASSES, Introduction, Introductions, is_too_long, united_classes
from p2pfl.protocol.wire import GREETING_BYTES
from p2pfl.run.paths import INTRODUCTIONS_FILE
from p2pfl.topology import Topology
from p2pfl.training import dataset_of_run
from p2pfl.transport import Transport
from p2pfl.util.files import read_if_any, replace_file

_POLL_SECONDS = 0.5
Known = Mapping[int, Introduction]


def introduce(
    spec: messages.WorkerSpec,
    topology: Topology,
    peer_dir: Path,
    make_transport: Callable[[str], Transport],
    control: Control,
) -> Known:
    """Introduce this peer to all others; returns the descriptions of all, by number.

    What was agreed on is saved: a resumed peer, whose neighbors may be at work, takes it from there. Raises
    NeighborError where a peer does not introduce itself within --start-timeout, Interrupted, ConfigError.
    """
    own = introduction_of(dataset_of_run(spec.config, data.load(spec.dataset)))
    if is_too_long(own):
        raise ConfigError(f"--dataset {spec.config.data.dataset}: its {len(own.classes):,} classes have too long names")
    saved = _saved(peer_dir, topology.n)
    if spec.resume and saved is not None and saved.get(spec.index) == own:
        return saved
    links = assign_roles(spec.config, topology).links[spec.index]
    protocol = Introductions(spec.index, topology.n, links, spec.run, own)
    with contextlib.closing(make_transport(spec.bind)) as transport:
        assert spec.endpoints is not None
        transport.connect({link: spec.endpoints[link] for link in sorted(links)}, topology.n * GREETING_BYTES)
        _run(protocol, transport, control, spec.config.exchange.start_timeout, topology)
    _check_number_of_classes(protocol.known, topology)
    _save(peer_dir, protocol.known)
    return protocol.known


def _check_number_of_classes(known: Known, topology: Topology) -> None:
    """Raise ConfigError if the classes of all make the model too large."""
    count = len(united_classes(known))
    if count > MOST_CLASSES:
        most = max(known, key=lambda peer: len(known[peer].classes))
        raise ConfigError(
            f"--partition own: the peers have {count:,} classes together, {len(known[most].classes):,} of them peer "
            f"{topology.names[most]}; at most {MOST_CLASSES:,} are possible"
        )


def _run(protocol: Introductions, transport: Transport, control: Control, seconds: float, topology: Topology) -> None:
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        transport.wake()

    clock = SystemClock()
    deadline = clock.now() + seconds
    control.attach(stop)
    sends = protocol.start(clock.now())
    while True:
        for send in sends:
            transport.send(send.neighbor, send.message)
        if protocol.is_done:
            return
        now = clock.now()
        if now > deadline:
            missing = tuple(protocol.missing)
            names = ", ".join(topology.names[peer] for peer in missing[:8])
            why = f"no introduction of peer {names} within {seconds:.0f} s (--start-timeout)"
            if set(missing) <= protocol.known.keys():
                why = f"peer {names} has not heard of all peers within {seconds:.0f} s (--start-timeout)"
            raise NeighborError(why, "no-greeting", missing)
        events = transport.poll(min(_POLL_SECONDS, deadline - now))
        if stopped:
            raise Interrupted("stopped")
        sends = [send for event in events for send in protocol.handle(event, clock.now())]
        sends += protocol.tick(clock.now())


def introduction_of(dataset: data.Dataset) -> Introduction:
    """Description of a peer's own data set, for the others.

    Its samples are those that it trains on.
    """
    return Introduction(list(dataset.classes), len(data.remaining(dataset)), list(dataset.mean), list(dataset.std))


def united(dataset: data.Dataset, known: Known) -> data.Dataset:
    """A peer's data set with the classes and the normalization of all peers.

    mean and std are those of all training images together.
    """
    classes = united_classes(known)
    labels = torch.tensor([classes.index(name) for name in dataset.classes])
    peers = [known[peer] for peer in sorted(known)]
    total = sum(one.samples for one in peers)
    mean = [sum(one.samples * one.mean[c] for one in peers) / total for c in range(len(dataset.mean))]
    square = [
        sum(one.samples * (one.std[c] ** 2 + one.mean[c] ** 2) for one in peers) / total for c in range(len(mean))
    ]
    std = [math.sqrt(max(second - first**2, 1e-12)) for first, second in zip(mean, square, strict=True)]
    return replace(
        dataset,
        classes=classes,
        train_labels=labels[dataset.train_labels],
        test_labels=labels[dataset.test_labels],
        mean=tuple(mean),
        std=tuple(std),
    )


def _saved(peer_dir: Path, peers: int) -> dict[int, Introduction] | None:
    """Agreement of an earlier start; None if unknown or damaged."""
    try:
        found = msgspec.json.decode(read_if_any(peer_dir / INTRODUCTIONS_FILE), type=list[Introduction])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return dict(enumerate(found)) if len(found) == peers else None


def _save(peer_dir: Path, known: Known) -> None:
    path = peer_dir / INTRODUCTIONS_FILE
    try:
        replace_file(path, msgspec.json.encode([known[peer] for peer in sorted(known)]) + b"\n")
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None
