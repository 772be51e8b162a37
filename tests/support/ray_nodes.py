"""Ray cluster of several nodes on this machine, some of which a test kills."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from p2pfl.run.records import read_rounds

# A killed node counts as lost after about a second; one that is slow does not.
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 20_000,
    "health_check_failure_threshold": 5,
}
# Ray starts an idle process for each CPU whenever a run connects.
_NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


class Nodes:
    """Head and three more nodes, as long as none is killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**_NODE, "include_dashboard": False, "_system_config": _HEALTH}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others: list[Any] = []
        self.refill()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def refill(self) -> None:
        """Replace the nodes that were killed."""
        while len(self._others) < 3:
            self._others.append(self._cluster.add_node(wait=False, **_NODE))
        self._cluster.wait_for_nodes()

    def victim(self, among: Callable[[dict[int, str]], set[int]]) -> Victim:
        """A node with one of the processes that are chosen by their places."""
        found = _places()
        wanted = {found[process] for process in among(found)}
        node = next(node for node in self._others if node.node_id in wanted)
        return Victim(self, node, sorted(process for process, place in found.items() if place == node.node_id))

    def lose(self, node: Any) -> None:
        """Kill a node and all its processes, as if its machine were lost."""
        processes = psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
        for process in processes:
            process.suspend()  # none does another round meanwhile
        self._others.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        self._cluster.shutdown()


@dataclass(frozen=True)
class Victim:
    """A node that is to be lost, and the processes of the run on it."""

    nodes: Nodes
    node: Any
    processes: list[int]

    @property
    def names(self) -> list[str]:
        return [str(process) for process in self.processes]


def _places() -> dict[int, str]:
    """Node of each process of the run that this process has launched."""
    from ray.util import placement_group_table

    [group] = [one for one in placement_group_table().values() if one["state"] == "CREATED"]
    return {int(index): node for index, node in group["bundles_to_node_id"].items()}


@contextlib.contextmanager
def lost_amid(
    nodes: Nodes, run_dir: Path, names: Sequence[str], rounds: int, among: Callable[[dict[int, str]], set[int]]
) -> Iterator[list[Victim]]:
    """Lose a node once these processes of the run have recorded so many rounds."""
    victims: list[Victim] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def wait_for(least: int) -> None:
        deadline = time.monotonic() + 200
        while not all(_has_recorded(run_dir / "peers" / name, least) for name in names):
            assert not over.wait(0.02), "the run ended before"
            assert time.monotonic() < deadline

    def act() -> None:
        try:
            wait_for(0)
            victims.append(nodes.victim(among))  # beforehand: asking takes time, and the run does not wait
            wait_for(rounds)
            nodes.lose(victims[0].node)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield victims
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def _has_recorded(folder: Path, rounds: int) -> bool:
    """Whether a process has written its log, and so many rounds."""
    return (folder / "log.txt").exists() and len(read_rounds(folder)) >= rounds
