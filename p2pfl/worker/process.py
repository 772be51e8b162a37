"""One peer from its settings to its end: what a worker process runs."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from p2pfl import checkpoint, data, gossip, partition, peer, records
from p2pfl.config import ExchangeConfig
from p2pfl.errors import CheckpointError, ConfigError, P2PFLError
from p2pfl.topology import (
    Topology,
    consensus_rounds,
    is_symmetric,
    load_topology,
    mixing_matrix,
    neighborhood,
    spectral_gap,
)
from p2pfl.training import Trainer, pick_device
from p2pfl.transport import Transport, ZmqTransport
from p2pfl.wire import ITEM_BYTES
from p2pfl.worker import messages
from p2pfl.worker.control import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, Control, LinkReport
from p2pfl.worker.driver import Driver, Interrupted, Report
from p2pfl.worker.keeper import Keeper


def main(spec: messages.WorkerSpec, link: Connection) -> None:
    """A worker process started by a launcher: talks to it over `link`, writes its own log."""
    peer_dir = spec.run_dir / "peers" / load_topology(spec.run_dir / "topology.graphml").node_path(spec.index)
    _redirect_output(peer_dir / "log.txt")
    control = Control()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the launcher decides
    signal.signal(signal.SIGTERM, lambda *_: control.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=control.watch_parent, daemon=True).start()
    threading.Thread(target=control.listen, args=(link,), daemon=True).start()
    report = LinkReport(link)
    status = run(spec, report, control)
    report.close()
    sys.exit(status)


def run(
    spec: messages.WorkerSpec,
    report: Report,
    control: Control,
    make_transport: Callable[[str], Transport] = ZmqTransport,
) -> int:
    """Run one peer to its end and return the process's exit status; errors are logged and reported."""
    topology = load_topology(spec.run_dir / "topology.graphml")
    peer_dir = spec.run_dir / "peers" / topology.node_path(spec.index)
    log = _open_log(peer_dir, spec.index)
    try:
        _run_peer(spec, _assemble(spec, topology, peer_dir, report), report, control, make_transport, log)
    except Interrupted:
        log.info("stopped")
        return EXIT_INTERRUPTED
    except ConfigError as error:
        log.error("%s", error)
        report(messages.Failed(str(error), usage=True))
        return EXIT_USAGE
    except P2PFLError as error:
        log.exception("the peer cannot go on")
        report(messages.Failed(str(error)))
        return EXIT_FAILED
    except Exception as error:
        log.exception("the peer failed")
        report(messages.Failed(f"{type(error).__name__}: {error}".splitlines()[0]))
        return EXIT_FAILED
    finally:
        for handler in list(log.handlers):
            handler.close()
            log.removeHandler(handler)
    return EXIT_OK


@dataclass(frozen=True)
class _Parts:
    """A peer put together and ready to be driven."""

    trainer: Trainer
    logic: peer.Peer
    keeper: Keeper


def _assemble(spec: messages.WorkerSpec, topology: Topology, peer_dir: Path, report: Report) -> _Parts:
    """Load the data, build the model or restore it, and set up the peer's logic and records."""
    trainer = _build_trainer(spec, topology)
    saved = _restore(spec, trainer, peer_dir, report) if spec.resume else None
    first_round = 1 if saved is None else saved.round + 1
    kept = records.truncate(peer_dir, first_round - 1)
    matrix = mixing_matrix(topology, spec.config.gossip.mixing)
    mixing_only = consensus_rounds(matrix, spec.config.gossip.consensus_tolerance)
    hood = neighborhood(matrix, spec.index)
    plan = peer.Plan(
        me=spec.index,
        names=topology.names,
        links=frozenset(hood.incoming) | frozenset(hood.outgoing),
        training_rounds=spec.config.training.rounds,
        consensus_rounds=mixing_only,
        run=spec.run,
        layout=trainer.layout.digest,
        timeouts=_timeouts(spec),
        first_round=first_round,
        unsent={} if saved is None else _unsent(saved),
    )
    keeper = Keeper(
        spec.config,
        spec.run_dir,
        peer_dir,
        is_first=spec.index == 0,
        settings=spec.settings,
        consensus_rounds=mixing_only,
        elapsed_before=kept[-1].elapsed if kept else 0.0,
    )
    contraction = 1.0 - spectral_gap(matrix) if is_symmetric(matrix) else 0.0
    training, consensus = gossip.build_algorithm(spec.config.exchange), gossip.Chebyshev(contraction)
    return _Parts(trainer, peer.Peer(plan, lambda round: hood, trainer.host, training, consensus), keeper)


def _run_peer(
    spec: messages.WorkerSpec,
    parts: _Parts,
    report: Report,
    control: Control,
    make_transport: Callable[[str], Transport],
    log: logging.Logger,
) -> None:
    """Open the socket, meet the neighbors, and run all rounds."""
    trainer, plan = parts.trainer, parts.logic.plan
    vector_bytes = trainer.layout.size * ITEM_BYTES["fp32"]
    transport = make_transport(spec.bind)
    try:
        driver = Driver(parts.logic, trainer, transport, parts.keeper, report, log)
        log.info("ready at %s on %s, first round %d", transport.endpoint, trainer.device, plan.first_round)
        report(
            messages.Ready(
                endpoint=transport.endpoint,
                device=str(trainer.device),
                round=plan.first_round,
                steps=trainer.steps_per_round * plan.training_rounds,
                vector_bytes=vector_bytes,
            )
        )
        endpoints = spec.endpoints or control.wait_for_endpoints(spec.config.exchange.start_timeout)
        control.attach(driver.stop)
        transport.connect({link: endpoints[link] for link in sorted(plan.links)}, vector_bytes)
        driver.run()
        refused = dict(parts.logic.refused)
        log.info("done; refused messages: %s", refused or "none")
        report(messages.Done(refused))
    finally:
        transport.close()


def _build_trainer(spec: messages.WorkerSpec, topology: Topology) -> Trainer:
    device = pick_device(
        spec.config.compute.device, spec.index, str(topology.graph.nodes[spec.index].get("device", ""))
    )
    if device.type == "cpu":
        torch.set_num_threads(spec.config.compute.threads or 1)
    else:
        torch.cuda.set_device(device)
    dataset = data.load(spec.dataset)
    shards = partition.partition(
        spec.config.data.partition, dataset.train_labels.numpy(), topology.n, spec.config.record.seed
    )
    return Trainer(spec.config, dataset, shards[spec.index], device, spec.index)


def _restore(
    spec: messages.WorkerSpec, trainer: Trainer, peer_dir: Path, report: Report
) -> checkpoint.Checkpoint | None:
    recorded = [record.round for record in records.read_rounds(peer_dir)]
    saved, refused = checkpoint.newest(peer_dir / "checkpoint", at_most=max(recorded, default=0))
    for line in refused:
        report(messages.Warned(line))
    if saved is None:
        return None
    if saved.settings != spec.settings or saved.layout != trainer.layout.digest:
        raise CheckpointError(
            f"{peer_dir / 'checkpoint'}: of a run with other settings; start a new run without --resume"
        )
    trainer.restore(saved.x, saved.momentum, dict(saved.buffers), saved.steps)
    return saved


def _unsent(saved: checkpoint.Checkpoint) -> dict[int, gossip.Payload]:
    return {
        neighbor: gossip.Payload({name: (v,) for name, v in vectors.items()}, saved.scalars.get(neighbor, {}))
        for neighbor, vectors in saved.sent.items()
    }


def _timeouts(spec: messages.WorkerSpec) -> peer.Timeouts:
    exchange: ExchangeConfig = spec.config.exchange
    # Without a launcher nobody knows when the neighbors start: greeting them is part of the start.
    start = None if spec.endpoints is None else exchange.start_timeout
    return peer.Timeouts(start, exchange.handshake_timeout, exchange.first_round_timeout, exchange.round_timeout)


def _redirect_output(path: Path) -> None:
    """What libraries and crashes print goes to the peer's log, not into the launcher's live table."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    faulthandler.enable()


def _open_log(peer_dir: Path, index: int) -> logging.Logger:
    log = logging.getLogger(f"p2pfl.peer.{index}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(peer_dir / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log
