"""One peer from its settings to its end: what a worker process runs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection, parent_process
from pathlib import Path

import torch

from p2pfl import checkpoint, data, gossip, partition, peer, records
from p2pfl.config import ExchangeConfig
from p2pfl.errors import CheckpointError, ConfigError, P2PFLError, TransportError
from p2pfl.topology import (
    Topology,
    consensus_rounds,
    is_symmetric,
    load_topology,
    mixing_matrix,
    neighborhood,
    spectral_gap,
)
from p2pfl.training import Trainer
from p2pfl.transport import Transport, ZmqTransport
from p2pfl.wire import ITEM_BYTES
from p2pfl.worker import messages
from p2pfl.worker.driver import Driver, Interrupted, Report
from p2pfl.worker.keeper import Keeper

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
_WAITING_REPORTS = 256
_ORPHAN_SECONDS = 4.0  # a worker whose launcher is gone ends within 5 s, whatever it is doing


def main(spec: messages.WorkerSpec, link: connection.Connection) -> None:
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


class LinkReport:
    """Reports to the launcher from a thread of its own, so that a launcher that does not read delays nobody."""

    def __init__(self, link: connection.Connection) -> None:
        self._link = link
        self._waiting: queue.Queue[messages.FromWorker | None] = queue.Queue(maxsize=_WAITING_REPORTS)
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def __call__(self, message: messages.FromWorker) -> None:
        with contextlib.suppress(queue.Full):  # the round is in the peer's own files all the same
            self._waiting.put_nowait(message)

    def close(self) -> None:
        """Send what is waiting, for two seconds at most."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout=2.0)

    def _send(self) -> None:
        try:
            while (message := self._waiting.get()) is not None:
                self._link.send_bytes(messages.encode(message))
        except OSError:
            return  # a lost link alone changes nothing


class Control:
    """What reaches a worker from outside its swarm: endpoints, and orders to stop."""

    def __init__(self) -> None:
        self.endpoints: queue.SimpleQueue[dict[int, str] | None] = queue.SimpleQueue()
        self._on_stop: Callable[[], None] | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask the worker to end; from any thread or signal handler."""
        self._stopped.set()
        self.endpoints.put(None)
        if self._on_stop is not None:
            self._on_stop()

    def attach(self, stop: Callable[[], None]) -> None:
        """From now on `stop` is how the worker is stopped."""
        self._on_stop = stop
        if self._stopped.is_set():
            stop()

    def wait_for_endpoints(self, seconds: float) -> dict[int, str]:
        """What the launcher sends once every peer is ready. Raises Interrupted, TransportError."""
        try:
            endpoints = self.endpoints.get(timeout=seconds)
        except queue.Empty:
            raise TransportError(f"the other peers were not ready within {seconds:.0f} s (--start-timeout)") from None
        if endpoints is None:
            raise Interrupted("stopped")
        return endpoints

    def listen(self, link: connection.Connection) -> None:
        """Thread: orders from the launcher. The link's end alone changes nothing."""
        try:
            while True:
                message = messages.decode_to_worker(link.recv_bytes())
                if isinstance(message, messages.Stop):
                    self.stop()
                else:
                    self.endpoints.put(message.endpoints)
        except (EOFError, OSError):
            return

    def watch_parent(self) -> None:
        """Thread: when the launcher's process is gone, stop, and soon end whether or not that worked."""
        parent = parent_process()
        if parent is None:
            return
        connection.wait([parent.sentinel])
        self.stop()
        threading.Event().wait(_ORPHAN_SECONDS)
        os._exit(EXIT_INTERRUPTED)


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
        _run_peer(spec, topology, peer_dir, report, control, make_transport, log)
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


def _run_peer(
    spec: messages.WorkerSpec,
    topology: Topology,
    peer_dir: Path,
    report: Report,
    control: Control,
    make_transport: Callable[[str], Transport],
    log: logging.Logger,
) -> None:
    trainer = _build_trainer(spec, topology)
    saved = _restore(spec, trainer, peer_dir, report) if spec.resume else None
    first_round = 1 if saved is None else saved.round + 1
    kept = records.truncate(peer_dir, first_round - 1)
    matrix = mixing_matrix(topology, spec.config.exchange.mixing)
    mixing_only = consensus_rounds(matrix, spec.config.exchange.consensus_tolerance)
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
    logic = peer.Peer(
        plan,
        lambda round: hood,
        trainer.host,
        gossip.build_algorithm(spec.config.exchange),
        gossip.Chebyshev(contraction),
    )
    transport = make_transport(spec.bind)
    try:
        driver = Driver(logic, trainer, transport, keeper, report, log)
        log.info("ready at %s on %s, first round %d", transport.endpoint, trainer.device, first_round)
        report(messages.Ready(transport.endpoint, str(trainer.device), first_round))
        endpoints = spec.endpoints
        if endpoints is None:
            endpoints = control.wait_for_endpoints(spec.config.exchange.start_timeout)
        control.attach(driver.stop)
        vector_bytes = trainer.layout.size * ITEM_BYTES["fp32"]
        transport.connect({link: endpoints[link] for link in sorted(plan.links)}, vector_bytes)
        driver.run()
        log.info("done; refused messages: %s", dict(logic.refused) or "none")
        report(messages.Done(dict(logic.refused)))
    finally:
        transport.close()


def _build_trainer(spec: messages.WorkerSpec, topology: Topology) -> Trainer:
    device = pick_device(
        spec.config.compute.device, spec.index, str(topology.graph.nodes[spec.index].get("device", ""))
    )
    if device.type == "cpu":
        torch.set_num_threads(spec.config.compute.threads or max(1, cores() // spec.peers_here))
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
    saved, refused = checkpoint.newest(peer_dir / "checkpoint")
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
    handshake = exchange.handshake_timeout if spec.endpoints is None else exchange.start_timeout
    return peer.Timeouts(handshake, exchange.first_round_timeout, exchange.round_timeout)


def pick_device(wanted: str, index: int, from_file: str) -> torch.device:
    """The device of one peer: the topology file's, or auto: GPUs in turn, else CPU. Raises ConfigError."""
    name = from_file if wanted == "auto" and from_file else wanted
    count = torch.cuda.device_count()
    if name in ("auto", "cuda"):
        if count:
            return torch.device("cuda", index % count)
        if name == "cuda":
            raise ConfigError("--device cuda: there is no GPU that PyTorch can use; choose cpu or auto")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}: unknown; choose auto, cpu, cuda or cuda:0") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise ConfigError(f"device {name}: PyTorch sees {count} GPUs here; choose another or cpu")
    return device


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
