"""Files of a run on Ray nodes that do not share the launcher's run directory.

A worker there writes to a private folder of its node. It gets what it reads from the launcher at its start, and the
launcher collects what it writes during the run. The pieces are small enough for Ray to send them from process to
process, without its object store.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from p2pfl.errors import ConfigError, P2PFLError
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


class PrivateFolder:
    """Run directory of one worker on its node; removed in the end."""

    def __init__(self) -> None:
        """Raises ConfigError where the node's temporary folder cannot be written."""
        self._temporary = TemporaryFolder()
        self._path = self._temporary.path / "run"
        self._incoming = Incoming(self._path)
        self._is_filled = threading.Event()
        self._outgoing: Outgoing | None = None

    def put(self, pieces: Sequence[Piece]) -> None:
        """Take pieces of files from the launcher; none: that was all."""
        for piece in pieces:
            self._incoming.put(piece)
        if not pieces:
            self._is_filled.set()

    def wait(self, spec: WorkerSpec) -> WorkerSpec:
        """Wait for the launcher's files; returns the specification with them.

        Raises P2PFLError where they do not come, ConfigError for a fault script, of whose kills the launcher would not
        learn.
        """
        if spec.config.exchange.faults is not None:
            raise ConfigError(
                f"--faults {spec.config.exchange.faults}: needs a run directory that all nodes share (--run-dir)"
            )
        if not self._is_filled.wait(spec.config.exchange.start_timeout):
            raise P2PFLError("the launcher's files have not come within the time of --start-timeout")
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
        self._temporary.close()
