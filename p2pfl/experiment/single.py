"""Single peer: one peer in this process, of a swarm over several machines."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, Interrupted, P2PFLError
from p2pfl.experiment.meeting import Meets, addresses, open_meeting
from p2pfl.experiment.resume import has_other_rounds, prolong
from p2pfl.experiment.run import how_to_resume
from p2pfl.launch.base import Launcher, WorkerHandle
from p2pfl.launch.events import StartWorker
from p2pfl.launch.single import SingleLauncher
from p2pfl.modes import assign_roles, has_final_model
from p2pfl.node import messages
from p2pfl.node.control import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from p2pfl.node.worker import keep_freed_memory
from p2pfl.preflight.checkpoints import check_each_round
from p2pfl.preflight.estimate import check_run, data_record
from p2pfl.preflight.shards import is_own_alone, pictures_of
from p2pfl.rendezvous.book import News
from p2pfl.rendezvous.meeting import Meeting
from p2pfl.run.data_record import DataRecord, keep_data_record
from p2pfl.run.directory import create_run_dir, open_run_dir, update_dataset, with_kept_files
from p2pfl.run.fingerprint import resume_fingerprint, run_fingerprint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, CONFIG_FILE, LOG_FILE, MODEL_FILE, ROUNDS_FILE, peer_dir
from p2pfl.run.settings import resolve
from p2pfl.topology import Topology
from p2pfl.transport import ZmqTransport, keyring
from p2pfl.util.signals import Interrupts, interruptible
from p2pfl.util.text import visible


def run_peer(
    topology: Topology,
    index: int,
    config: RunConfig,
    *,
    resume: Path | None = None,
    announce: str | None = None,
) -> None:
    """Run peer `index` in this process until the swarm is done.

    The topology file says where each peer listens, or they find each other by `rendezvous`, where `announce` may be the
    host, or HOST:PORT, under which this one is reached. All peers must be started with the same file and the same
    training options, in any order, within --start-timeout. Peers with a common file system may share --run-dir.

    The first peer evaluates and saves the consensus model. Raises ConfigError for bad input, Interrupted after
    Ctrl-C, SIGTERM, SIGHUP or SIGQUIT (the next of them ends this process), P2PFLError where the peer cannot continue.
    """
    check_each_round(config)
    config = resolve(config, topology, _sharing_this_host(topology, index, config))
    roles = assign_roles(config, topology)
    endpoints, announced = addresses(topology, index, config, announce)
    with interruptible() as interrupts, contextlib.ExitStack() as held:
        checked = check_run(roles, config, index, begins=resume is None)
        keep_freed_memory()
        dataset = data.prepare(config.data.dataset, config.data.data_dir, _Progress(), pictures_of(config, index))
        split = checked.check_split(roles, config, data.load(dataset), index).split
        for note in (*checked.notes(config, dataset), *split.notes):
            _print_line(f"note: {note}")
        meets = None
        if announced is not None:
            meets = open_meeting(roles, index, config, announced, _Said(topology.names[index]))
            held.enter_context(meets.meeting)
        with ZmqTransport(endpoints[index]):  # an address that cannot be had leaves no run directory behind
            pass
        run_dir, config = _prepare_run_dir(topology, index, config, data_record(config, dataset, split), resume)
        is_own = is_own_alone(config, index)
        spec = messages.WorkerSpec(
            config=config,
            run_dir=run_dir,
            dataset=dataset,
            index=index,
            run=run_fingerprint(roles, config, "" if is_own else data.load(dataset).content),
            settings=resume_fingerprint(roles, config),
            bind=endpoints[index],
            resume=resume is not None,
            endpoints=endpoints,
            introduces=is_own,
            token=None if config.exchange.token_file is None else keyring.own_token(config.exchange.token_file),
        )
        if meets is not None:
            meets.meeting.keep_records(run_dir, peer_dir(run_dir, topology, index))
        _run(spec, topology, sorted(roles.links[index]), interrupts, meets)


def _prepare_run_dir(
    topology: Topology, index: int, config: RunConfig, trained_on: DataRecord, resume: Path | None
) -> tuple[Path, RunConfig]:
    """Prepare a peer's run directory; returns it and the settings with its files.

    The directory records the data. What is there already is changed only once all is known to fit. Raises ConfigError.
    """
    run_dir = resume or _join_run_dir(topology, index, config)
    is_own = is_own_alone(config, index)
    kept_in = peer_dir(run_dir, topology, index) if is_own else run_dir  # peers may share the run directory
    kept = with_kept_files(config, run_dir)
    keep_data_record(kept_in, trained_on)
    if resume is not None:
        update_dataset(resume, config)
        if has_other_rounds(resume, config):
            prolong(resume, config)
    return run_dir, kept


def _run(
    spec: messages.WorkerSpec, topology: Topology, neighbors: list[int], interrupts: Interrupts, meets: Meets | None
) -> None:
    """Run the peer to its end; print how that went, or raise the error for it."""
    name, run_dir = topology.names[spec.index], spec.run_dir
    interrupted = Interrupted("interrupted", remedy=how_to_resume(spec.config, _resume(run_dir, name)))
    launcher: Launcher = SingleLauncher(spec, None if meets is None else meets.open)
    worker = launcher.start(StartWorker(spec.index))
    interrupts.hold(_Stop(worker, str(interrupted)))
    _print_line(f"peer {name}{f' at {spec.bind}' if meets is None else ''}, records in {run_dir}")
    report = _LineReport(name, spec.config.training.rounds)
    launcher.watch(math.inf, report)
    if worker.exitcode == EXIT_INTERRUPTED:
        raise interrupted
    if worker.exitcode != EXIT_OK:
        peers = report.failure.peers or neighbors
        meeting = None if meets is None else meets.meeting
        raise _error(
            spec, topology, _Search(spec.endpoints or {}, peers, meeting), worker.exitcode == EXIT_USAGE, report.failure
        )
    if spec.index == 0 and has_final_model(spec.config):
        _print_line(f"weights of the consensus model: {run_dir / MODEL_FILE}")
    _print_line(f"peer {name}: done; for one report, name all peers' run directories: p2pfl report {run_dir} …")


def _error(
    spec: messages.WorkerSpec, topology: Topology, search: _Search, usage: bool, failure: messages.Failed
) -> P2PFLError:
    """Error for a peer that failed: its own words, where it looked, and what helps."""
    name, where = topology.names[spec.index], ""
    if failure.code == "no-greeting":
        log = peer_dir(spec.run_dir, topology, spec.index) / LOG_FILE
        where = f"; looked for {search.text()}; have all the same file, options, and keys or token? See {log}"
    if usage:
        return ConfigError(f"peer {name}: {failure.reason}{where}")
    remedy = ""
    if failure.resumable and not where:
        missed = [topology.names[peer] for peer in failure.peers]
        remedy = when_back(missed, how_to_resume(spec.config, _resume(spec.run_dir, name)))
    return P2PFLError(f"peer {name}: {failure.reason}{where}", remedy=remedy)


def when_back(missed: Sequence[str], remedy: str) -> str:
    """Remedy of a failure, which applies once the missed neighbors are back."""
    if not missed:
        return remedy
    return f"once {', '.join(missed)} {'is' if len(missed) == 1 else 'are'} back, {remedy}"


def _resume(run_dir: str | Path, name: str) -> str:
    return f"p2pfl peer --resume {shlex.quote(str(run_dir))} --node {shlex.quote(name)}"


class _Stop:
    """Handler of signals: the first stops the peer, another ends the process at once."""

    def __init__(self, worker: WorkerHandle, line: str) -> None:
        self._worker = worker
        self._line = line
        self._asked = False

    def __call__(self) -> None:
        if self._asked:
            with contextlib.suppress(OSError):  # not `print`, which may be what the signal has interrupted
                os.write(2, f"p2pfl: {visible(self._line, controls=True)}\n".encode())
            self._worker.kill()
        self._asked = True
        self._worker.send(messages.Stop())


@dataclass(frozen=True)
class _Search:
    """Places at which missing peers were looked for: by the file, or in a meeting."""

    endpoints: Mapping[int, str]
    peers: Sequence[int]
    meeting: Meeting | None

    def text(self) -> str:
        """Places on one line; hosts without address are marked."""
        if self.meeting is not None:
            return self.meeting.whereabouts(self.peers)
        places = []
        for peer in sorted(self.peers):
            host = urlsplit(self.endpoints[peer]).hostname or ""
            try:
                socket.getaddrinfo(host, None)
                places.append(self.endpoints[peer])
            except OSError as error:
                places.append(f"{self.endpoints[peer]} (host {host}: {error.strerror})")
        return f"at {', '.join(places)}"


class _LineReport:
    """Prints the peer's reports as lines, and keeps why it failed, if it did."""

    def __init__(self, name: str, rounds: int) -> None:
        self.failure = messages.Failed("failed", resumable=False)
        self._sent = 0
        self._name = name
        self._rounds = rounds

    def __call__(self, _worker: int, message: messages.FromWorker) -> None:
        if isinstance(message, messages.RoundFinished):
            record = message.record
            self._sent += record.bytes_sent
            loss = "" if record.train_loss is None else f"  loss {record.train_loss:.3f}"
            accuracy = (
                "" if record.test_accuracy is None else f"  {record.accuracy_name} {100 * record.test_accuracy:.1f} %"
            )
            number = (
                f"round {record.round}/{self._rounds}"
                if record.phase == "train"
                else f"mix {record.round - self._rounds}"
            )
            _print_line(f"peer {self._name}: {number}{loss}{accuracy}  {self._sent / 1e6:,.1f} MB sent")
        elif isinstance(message, messages.Ready):
            _print_line(f"peer {self._name}: ready on {message.device}, waiting for its neighbors")
        elif isinstance(message, messages.Warned):
            print(f"p2pfl: warning: {message.text}", file=sys.stderr)
        elif isinstance(message, messages.Failed):
            self.failure = message


class _Progress:
    """Progress of decoding the data set, a line every tenth."""

    def __init__(self) -> None:
        self._shown: tuple[str, int] = ("", -1)

    def __call__(self, what: str, done: int, total: int) -> None:
        tenth = (what, 10 * done // max(total, 1))
        if tenth != self._shown:
            self._shown = tenth
            _print_line(f"{what}: {10 * tenth[1]} %")


def _print_line(text: str) -> None:
    print(text, flush=True)


def _join_run_dir(topology: Topology, index: int, config: RunConfig) -> Path:
    """A new run directory, or --run-dir if other peers of this run use it already."""
    wanted = config.record.run_dir
    if wanted is None:
        return create_run_dir(topology, config, topology.names[index])
    if not (Path(wanted) / CONFIG_FILE).exists():
        create_run_dir(topology, config, topology.names[index])  # or another peer makes it at the same time
    there, saved = open_run_dir(Path(wanted))
    if run_fingerprint(assign_roles(saved, there), saved) != run_fingerprint(assign_roles(config, topology), config):
        raise ConfigError(
            f"--run-dir {wanted}: holds a run of another topology or other options",
            remedy="give each peer of a run the same, or choose another folder",
        )
    folder, name = peer_dir(Path(wanted), topology, index), topology.names[index]
    if any((folder / kept).exists() for kept in (ROUNDS_FILE, CHECKPOINTS_FOLDER)):
        again = how_to_resume(config, _resume(wanted, name))
        raise ConfigError(f"--run-dir {wanted}: peer {name} has run there", remedy=f"{again}, or choose another")
    os.makedirs(folder, exist_ok=True)
    return Path(wanted)


def _sharing_this_host(topology: Topology, index: int, config: RunConfig) -> int:
    """Number of peers that share this one's host, and with it its cores.

    1 where the file does not say.
    """
    hosts = [topology.graph.nodes[peer].get("host") for peer in range(topology.n)]
    return 1 if hosts[index] is None and config.exchange.rendezvous is not None else hosts.count(hosts[index])


class _Said:
    """Prints news of a peer's neighbors, from any thread."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, news: News) -> None:
        if news.matters:
            print(f"p2pfl: warning: peer {self._name}: {news.text}", file=sys.stderr, flush=True)
        else:
            _print_line(f"peer {self._name}: {news.text}")
