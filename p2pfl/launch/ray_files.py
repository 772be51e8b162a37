"""Files of a run on Ray nodes that do not share the launcher's run directory.

A worker there writes to a private folder of its node. It gets what it reads from the launcher at its start, and the
launcher collects what it writes during the run. The pieces are small enough for Ray to send them from process to
process, without its object store.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from p2pfl.errors import ConfigError, P2PFLError, unwritable
from p2pfl.launch.base import LaunchSpec
from p2pfl.node.messages import WorkerSpec
from p2pfl.run.directory import with_kept_files
from p2pfl.run.mirror import Incoming, Outgoing, Piece
from p2pfl.run.paths import (
    CONFIG_FILE,
    DATA_FILE,
    INIT_FILE,
    MODEL_FILE,
    PARTITION_STEM,
    RUN_ID_FILE,
    peer_dir,
    topology_file,
)
from p2pfl.topology import load_topology
from p2pfl.util.tempdir import TemporaryFolder


def input_files(spec: LaunchSpec, index: int) -> Outgoing:
    """Files that a worker reads: settings, graph, its own, the coordinator's."""
    run_dir, coordinator = spec.run_dir, spec.roles.coordinator
    names = (CONFIG_FILE, RUN_ID_FILE, DATA_FILE, INIT_FILE)
    own = {index} if coordinator is None else {index, coordinator}
    parts = [*(run_dir / name for name in names), topology_file(run_dir), *run_dir.glob(f"{PARTITION_STEM}.*")]
    return Outgoing(run_dir, [*parts, *(spec.peer_dir(one) for one in sorted(own))])


class Supply:
    """Files that a worker reads, in numbered batches; the last one is empty."""

    def __init__(self, spec: LaunchSpec, index: int) -> None:
        self._spec = spec
        self._index = index
        self._source: Outgoing | None = None
        self._count = 0  # of batches so far
        self._last: list[Piece] = []

    def batch(self, number: int) -> list[Piece]:
        """The batch of this number: the next one, or the last one again."""
        if self._source is None:
            self._source = input_files(self._spec, self._index)
        if number == self._count:
            self._last = self._source.take()
            self._count += 1
        return self._last


class PrivateFolder:
    """Run directory of one worker on its node; removed in the end."""

    def __init__(self) -> None:
        """Raises ConfigError where the node's temporary folder cannot be written."""
        self._temporary = TemporaryFolder()
        self._path = self._temporary.path / "run"
        self._incoming = Incoming(self._path)
        self._outgoing: Outgoing | None = None
        self._changed = threading.Condition()
        self._batches: int | None = 0  # that have come; None after the last one
        self._trouble: P2PFLError | None = None

    def put(self, number: int, pieces: Sequence[Piece]) -> None:
        """Take a batch of the launcher's files; without pieces it is the last one.

        A batch that has come already, or is not the next one, has no effect.
        """
        with self._changed:
            if number != self._batches:
                return
            try:
                for piece in pieces:
                    self._incoming.put(piece)
            except OSError as error:
                self._trouble = P2PFLError(f"the launcher's files: {unwritable(self._path, error)}")
            is_last = not pieces or self._trouble is not None
            self._batches = None if is_last else number + 1
            self._changed.notify_all()

    def wanted(self, known: int, seconds: float) -> int | None:
        """Number of the next batch; None if all have come.

        Waits so long for another one than `known`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._batches != known, seconds)
            return self._batches

    def wait(self, spec: WorkerSpec) -> WorkerSpec:
        """Wait for the launcher's files; returns the specification with them.

        Raises P2PFLError where they do not come or cannot be written, ConfigError for a fault script, of whose kills
        the launcher would not learn.
        """
        if spec.config.exchange.faults is not None:
            raise ConfigError(
                f"--faults {spec.config.exchange.faults}: needs a run directory that all nodes share (--run-dir)"
            )
        with self._changed:
            if not self._changed.wait_for(lambda: self._batches is None, spec.config.exchange.start_timeout):
                raise P2PFLError("the launcher's files have not come within the time of --start-timeout")
        if self._trouble is not None:
            raise self._trouble
        topology = load_topology(topology_file(self._path), least=1, by_ids=True)
        own = peer_dir(self._path, topology, spec.index)
        own.mkdir(parents=True, exist_ok=True)
        outgoing = Outgoing(self._path, [own, self._path / MODEL_FILE])
        outgoing.skip_present()
        self._outgoing = outgoing
        return replace(spec, run_dir=self._path, config=with_kept_files(spec.config, self._path))

    def changes(self) -> list[Piece]:
        """Next pieces of what the worker has written."""
        return [] if self._outgoing is None else self._outgoing.take()

    def close(self) -> None:
        """Remove the folder."""
        if self._outgoing is not None:
            self._outgoing.close()
        self._temporary.close()
