"""Ray cluster of several nodes on this machine, some of which a test kills."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

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

    def kill_node_of(self, places: dict[int, str], among: set[int]) -> list[int]:
        """Kill a node with one of these processes; returns all processes on it."""
        victim = next(node for node in self._others if node.node_id in {places[one] for one in among})
        self._others.remove(victim)
        self._cluster.remove_node(victim, allow_graceful=False)
        return sorted(process for process, node in places.items() if node == victim.node_id)

    def close(self) -> None:
        self._cluster.shutdown()


def places() -> dict[int, str]:
    """Node of each process of the run that this process has launched."""
    from ray.util import placement_group_table

    [group] = [one for one in placement_group_table().values() if one["state"] == "CREATED"]
    return {int(index): node for index, node in group["bundles_to_node_id"].items()}


@contextlib.contextmanager
def meanwhile(is_due: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Act in a thread once something is due, while the block runs; raises its error."""
    errors: list[BaseException] = []
    over = threading.Event()

    def wait() -> None:
        try:
            deadline = time.monotonic() + 120
            while not is_due():
                assert not over.wait(0.05), "the run ended before"
                assert time.monotonic() < deadline
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
