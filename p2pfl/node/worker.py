"""Worker process: one peer, client or coordinator, from its settings to its end."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from p2pfl.config import shares_memory
from p2pfl.errors import ConfigError, Interrupted, P2PFLError, is_from_outside, one_line, unwritable
from p2pfl.faults.injector import FaultInjector
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.builder import Assembly, assemble
from p2pfl.node.control import (
    BATCH_SECONDS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    Control,
    LinkReport,
)
from p2pfl.node.introduction import introduce
from p2pfl.node.limits import allow_open_files
from p2pfl.node.log import close_log, log_of, open_log, redirect_output
from p2pfl.node.loop import Driver
from p2pfl.node.ports import Ports
from p2pfl.node.profile import RoundProfile
from p2pfl.node.system import LogReporter, SystemClock, ThreadCompute
from p2pfl.payload import ITEM_BYTES, VectorMemory
from p2pfl.run.paths import FIRED_FILE, LOG_FILE, topology_file
from p2pfl.run.paths import peer_dir as peer_dir_of
from p2pfl.topology import Topology, load_topology
from p2pfl.transport import (
    AnnouncedKeys,
    Conditioner,
    Credentials,
    Keys,
    ScriptedFaults,
    SharedMemoryTransport,
    Token,
    Transport,
    ZmqTransport,
    constant_delay,
    keyring,
)
from p2pfl.util.signals import SIGNALS
from p2pfl.util.tempdir import remove_if_abandoned

# Options of glibc's malloc (malloc.h) and their values: M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
_MALLOC = {-8: 1, -1: 1 << 30, -3: 1 << 25}


def main(spec: messages.WorkerSpec, link: Connection) -> None:
    """Entry point of a worker process, which reports to its launcher over `link`."""
    keep_freed_memory()
    # A launcher that wakes paused peers when their neighbors have done a round must learn of it at once.
    report = LinkReport(link, BATCH_SECONDS if spec.config.exchange.faults is None else 0.0)
    if not begin_log(spec, report):
        report.close()
        sys.exit(EXIT_FAILED)
    control = Control()
    for number in SIGNALS:  # they reach the whole group; the launcher decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: control.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=control.watch_parent, args=(lambda: _clean_up(spec),), daemon=True).start()
    threading.Thread(target=control.listen, args=(link,), daemon=True).start()
    status = run(spec, report, control)
    report.close()
    if control.is_orphan:
        _clean_up(spec)
    sys.exit(status)


def begin_log(spec: messages.WorkerSpec, report: messages.Report) -> bool:
    """Redirect this process's output to the worker's log.

    Reports a failure, and returns False.
    """
    try:
        topology = load_topology(topology_file(spec.run_dir), least=1, by_ids=True)
        peer_dir = peer_dir_of(spec.run_dir, topology, spec.index)
        peer_dir.mkdir(parents=True, exist_ok=True)  # it may have been removed before the run is resumed
        redirect_output(peer_dir / LOG_FILE)
    except (OSError, P2PFLError) as error:
        report(_log_trouble(error))
        return False
    return True


def _clean_up(spec: messages.WorkerSpec) -> None:
    """Remove the temporary folder of a launcher that is gone, unless it is in use."""
    if spec.temporary is not None:
        remove_if_abandoned(spec.temporary)


def run(  # one exit status for each kind of error
    spec: messages.WorkerSpec,
    report: messages.Report,
    control: Control,
    make_transport: Callable[[str], Transport] | None = None,
) -> int:
    """Run one process to its end; returns its exit status. Logs and reports errors."""
    topology = load_topology(topology_file(spec.run_dir), least=1, by_ids=True)
    peer_dir = peer_dir_of(spec.run_dir, topology, spec.index)
    try:
        log = open_log(peer_dir, spec.index)
    except OSError as error:
        report(_log_trouble(error))
        return EXIT_FAILED
    try:
        make_transport = make_transport or zeromq_maker(spec, topology)
        known = introduce(spec, topology, peer_dir, make_transport, control) if spec.introduces else None
        parts = assemble(spec, topology, peer_dir, report, lambda: control.holds_model, known)
        with contextlib.closing(_open_transport(spec, parts, make_transport)) as transport:
            _run(spec, parts, report, control, transport)
    except Interrupted:
        log.info("stopped")
        return EXIT_INTERRUPTED
    except ConfigError as error:
        log.error("%s", error)
        report(messages.failed(error))
        return EXIT_USAGE
    except P2PFLError as error:
        log.exception("cannot continue")
        report(messages.failed(error))
        return EXIT_FAILED
    except Exception as error:
        log.exception("failed")
        reason = f"{one_line(error)[:500]}; see {peer_dir / LOG_FILE}"
        report(messages.Failed(reason, resumable=is_from_outside(error)))
        return EXIT_FAILED
    finally:
        close_log(log)
    return EXIT_OK


def _run(
    spec: messages.WorkerSpec, parts: Assembly, report: messages.Report, control: Control, transport: Transport
) -> None:
    """Meet the neighbors, and run all rounds."""
    trainer, context = parts.trainer, parts.logic.context
    vector_bytes = trainer.layout.size * ITEM_BYTES["fp32"]
    name, log = context.names[spec.index], log_of(spec.index)
    profile = RoundProfile.of(spec.config, name, parts.recorder.peer_dir)
    fired = parts.recorder.peer_dir / FIRED_FILE
    injector = FaultInjector(parts.script, spec.index, fired) if parts.script.faults else None
    ports = Ports(SystemClock(), ThreadCompute(transport.wake), transport, parts.recorder, LogReporter(report, log))
    driver = Driver(parts.logic, trainer, ports, profile, injector)
    first_round = context.shown(context.first_round)
    log.info("ready at %s on %s, first round %d", transport.endpoint, trainer.device, first_round)
    report(
        messages.Ready(
            endpoint=transport.endpoint,
            device=str(trainer.device),
            round=first_round,
            steps=parts.steps,
            vector_bytes=vector_bytes,
            lost=context.has_lost_weights,
            consensus_rounds=context.consensus_rounds,
        )
    )
    endpoints = spec.endpoints or {}
    if spec.endpoints is None or spec.new_endpoint:
        endpoints = endpoints | control.wait_for_endpoints(spec.config.exchange.start_timeout)
    control.attach(driver.stop, transport.redirect)
    transport.connect({link: endpoints[link] for link in sorted(context.links - context.absent)}, vector_bytes)
    driver.run()
    if profile.path is not None and not profile.written:
        before = profile.round < first_round
        why = "the round was over before this run was resumed" if before else f"{name} had no part in that round"
        report(messages.Warned(f"--profile {spec.config.record.profile}: {why}"))
    refused = dict(parts.logic.refused)
    log.info("done; refused messages: %s", refused or "none")
    report(messages.Done(refused))


def _open_transport(spec: messages.WorkerSpec, parts: Assembly, make: Callable[[str], Transport]) -> Transport:
    """Transport of a worker, with the delay and the faults that it is to have."""
    allow_open_files(1, len(parts.logic.context.links))  # the fork server may be from before a run with more neighbors
    transport = shared_memory(make(spec.bind), spec, parts.logic.context.memory)
    if spec.link_delay:
        transport = Conditioner(transport, constant_delay(spec.link_delay))
    if parts.script.faults:
        logic = parts.logic
        faults = ScriptedFaults(parts.script, spec.index, lambda: logic.context.shown(logic.round))
        transport = Conditioner(transport, faults)
    return transport


def shared_memory(transport: Transport, spec: messages.WorkerSpec, memory: VectorMemory) -> Transport:
    """Shared memory, where neighbors and settings permit, around a transport."""
    share = shares_memory(spec.config.exchange)
    return SharedMemoryTransport(transport, spec.run, spec.index, log_of(spec.index).info, memory=memory, share=share)


def zeromq_maker(spec: messages.WorkerSpec, topology: Topology) -> Callable[[str], Transport]:
    """Maker of a worker's ZeroMQ transport, with the credentials of its settings.

    Raises ConfigError where the peer's secret key cannot be used.
    """
    exchange = spec.config.exchange
    credentials: Credentials | None = None
    if exchange.keys is not None:
        secret = keyring.own_secret(topology, exchange.keys, spec.index)
        own = keyring.public_keys(topology)[spec.index]
        credentials = Keys(own, secret, keyring.neighbors_keys(topology, spec.index))
    elif spec.token is not None:
        credentials = Token(spec.token, spec.index, assign_roles(spec.config, topology).links[spec.index])
    elif spec.new_endpoint:
        credentials = AnnouncedKeys(len(assign_roles(spec.config, topology).links[spec.index]))
    return lambda bind: ZmqTransport(bind, grace=exchange.grace_timeout, credentials=credentials)


def _log_trouble(error: OSError | P2PFLError) -> messages.Failed:
    """Report of a process that cannot start, since it cannot write its log."""
    if isinstance(error, P2PFLError):
        return messages.failed(error)
    return messages.Failed(unwritable(Path(error.filename or LOG_FILE), error))


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory; without effect elsewhere.

    By default every training step returns its activations' memory to the system and faults it in again: some 2,000
    pages a step of VGG-11 at batch 32, a tenth of its time. With these options it faults in none, for the same peak.
    One arena, because those of threads other than the first return memory whatever the thresholds say.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC.items():
            mallopt(option, value)
