"""Ray cluster of a run: connection, room for the processes, and their places."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from p2pfl.config import LaunchConfig
from p2pfl.errors import ConfigError, P2PFLError, one_line
from p2pfl.launch.ray_head import LOOK_SECONDS, answers, check_answers, is_same
from p2pfl.util.signals import SIGNALS, shielded
from p2pfl.util.units import counted

_OBJECT_STORE_BYTES = 80 << 20  # of a node that is started: nothing of a run goes through it
_LONGEST_PATH = 34  # of the temporary folder, below which Ray's sockets have some 70 characters more
_END_SECONDS = 10.0  # for Ray to end in this process where the cluster's head is gone
# Until Ray itself ends a process that has lost the cluster's head, in place of 60: on a busy machine this process needs
# longer to stop the others and to say what happened.
_RAY_ENDS_SECONDS = 300
_WAIT_SECONDS = 0.5  # between two looks at signals
_SILENT_SECONDS = 10.0  # that a run waits for room, before the user is told


_own: list[str | None] = []  # the --ray-address of the connection that `connected` has made, if it has


@contextlib.contextmanager
def connected(options: LaunchConfig, processes: int, folder: Path) -> Iterator[None]:
    """Connect to the cluster, or start one with room for all processes here.

    A connection that exists is used, and stays. `folder`: for the files of a cluster that is started. Raises
    ConfigError where there is no cluster at the address, or this process is connected to another one, and P2PFLError
    where it cannot be used.
    """
    import ray

    if ray.is_initialized():
        _check_connected_to(options.ray_address)
        yield
        return
    if options.ray_address is not None:  # before an interrupt has to wait, and Ray for minutes
        check_answers(options.ray_address, _found(options.ray_address))
    try:
        with shielded(), _own_signal_handlers():  # an interrupt amid the start would leave processes behind
            _connect(options, processes, folder)
        _own.append(options.ray_address)
        yield
    finally:
        _own.clear()
        with shielded():
            _disconnect()


def _disconnect() -> None:
    """End the connection, and a cluster that was started with it.

    Where the head is gone Ray may wait for it: then not for long.
    """
    import ray

    if not ray.is_initialized() or answers(head_address(), LOOK_SECONDS):
        ray.shutdown()
        return
    left = _below_own_node()
    ending = threading.Thread(target=ray.shutdown, daemon=True)
    ending.start()
    ending.join(_END_SECONDS)
    for process in left:
        with contextlib.suppress(Exception):  # it has ended
            process.kill()


def _below_own_node() -> list[Any]:
    """Processes below those of a node that this process has started.

    Ray's own would try to reach the head for another minute.
    """
    with contextlib.suppress(Exception):  # Ray's internals, which may change
        import psutil  # it comes with Ray
        from ray._private.worker import _global_node

        started = [one for of_kind in _global_node.all_processes.values() for one in of_kind]
        return [child for one in started for child in psutil.Process(one.process.pid).children(recursive=True)]
    return []


def head_address() -> str:
    """Address of the head of the cluster that is connected."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _check_connected_to(option: str | None) -> None:
    """Raise ConfigError if another cluster is connected than is asked for.

    `auto` without RAY_ADDRESS is the one that is connected.
    """
    if option is None or option in _own or (option == "auto" and not os.environ.get("RAY_ADDRESS")):
        return
    asked, there = _found(option), head_address()
    if not is_same(asked, there):
        raise ConfigError(
            f"--ray-address {option}: this process is connected to the cluster at {there}; disconnect it with "
            "ray.shutdown() before the run, or give that address"
        )


def _connect(options: LaunchConfig, processes: int, folder: Path) -> None:
    import ray

    _silence()
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_RAY_ENDS_SECONDS))
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if options.ray_address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that lives as long as the run
        settings |= {
            "num_cpus": _cpus_here(options, processes),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        if len(str(folder)) <= _LONGEST_PATH:
            settings["_temp_dir"] = str(folder / "ray")
    try:
        ray.init(address=options.ray_address or "local", **settings)
    except Exception as error:
        if options.ray_address is None:
            raise P2PFLError(
                f"--launcher ray: no cluster could be started on this machine: {_shown(error)}",
                remedy="where the machine is too busy, start one with `ray start --head`, and add --ray-address auto",
            ) from error
        raise ConfigError(
            f"--ray-address {options.ray_address}: no cluster that can be used: {_shown(error)}; start one with "
            "`ray start --head` and the same versions of Python and Ray, and set RAY_AUTH_MODE=token where it asks for "
            "a token"
        ) from error


def _cpus_here(options: LaunchConfig, processes: int) -> int:
    """CPUs of a cluster that is started on this machine: room for all processes."""
    return max(os.cpu_count() or 1, math.ceil(processes * options.cpus_per_peer))


def _found(address: str) -> str:
    """Address that `auto` stands for; any other address itself.

    `auto` where Ray finds none, and says why when it is asked to connect. Raises ConfigError for a RAY_ADDRESS of
    another form.
    """
    if address != "auto":
        return address
    named = os.environ.get("RAY_ADDRESS", "")
    if "://" in named:
        raise ConfigError(f"--ray-address auto: RAY_ADDRESS is {named}; it must be HOST:PORT of the cluster's head")
    if named:
        return named
    with contextlib.suppress(Exception):
        from ray._private.services import canonicalize_bootstrap_address

        return canonicalize_bootstrap_address("auto") or address
    return address


def _shown(error: Exception) -> str:
    return one_line(error)[:300].rstrip(".")


def _silence() -> None:
    """Keep the messages of Ray's nodes off the terminal.

    They would disturb the live table, and Ray has no option for it. The launcher itself reports the loss of a node.
    """
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers, of which Ray replaces one."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, which alone has handlers
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)


def share_of(options: LaunchConfig) -> dict[str, float]:
    """Resources that one process takes up, as Ray names them."""
    gpus = {"GPU": options.gpus_per_peer} if options.gpus_per_peer else {}
    return {"CPU": options.cpus_per_peer, **gpus}


def nodes() -> list[dict[str, Any]]:
    """The nodes that are alive, as Ray's table has them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def is_lost(node: str) -> bool:
    """Whether a node is no longer part of the cluster."""
    return all(other["NodeID"] != node for other in nodes())


def check_room(options: LaunchConfig, processes: int, here: Sequence[Mapping[str, float]] | None = None) -> None:
    """Raise ConfigError if the cluster, were it idle, had no room for all processes.

    `here`: resources of its nodes, by default those of the cluster that is connected.
    """
    share = share_of(options)
    here = [node["Resources"] for node in nodes()] if here is None else here
    fitting = sum(min(int(node.get(kind, 0.0) / asked + 1e-6) for kind, asked in share.items()) for node in here)
    if fitting < processes:
        raise ConfigError(
            f"--launcher ray: the cluster has room for {counted(fitting, 'process')} of {_listed(share)} each, and the "
            f"run has {processes:,} ({_size(here)}); lower --cpus-per-peer or --gpus-per-peer, or add nodes"
        )


def describe(options: LaunchConfig, processes: int) -> str:
    """Size of the cluster, and the places that a run asks for.

    Raises as `connected` and `check_room` do.
    """
    share = share_of(options)
    placed = "spread" if options.placement == "spread" else "packed"
    asked = f"{counted(processes, 'process')} of {_listed(share)}, {placed}"
    if options.ray_address is None:
        import torch

        check_room(options, processes, [{"CPU": _cpus_here(options, processes), "GPU": torch.cuda.device_count()}])
        return f"one node on this machine, for this run; asked: {asked}"
    import ray

    with connected(options, processes, Path()):
        check_room(options, processes)
        free = ray.available_resources()
        left = ", ".join(f"{free.get(kind, 0.0):g} {kind}" for kind in ("CPU", "GPU"))
        return f"{_size([node['Resources'] for node in nodes()])}, of which {left} are free; asked: {asked}"


def _size(resources: Sequence[Mapping[str, float]]) -> str:
    cpus, gpus = (sum(node.get(kind, 0.0) for node in resources) for kind in ("CPU", "GPU"))
    return f"{counted(len(resources), 'node')} with {cpus:g} CPU and {gpus:g} GPU"


def _listed(share: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())


def reserve(options: LaunchConfig, processes: int, seconds: float, say: Callable[[str], None]) -> Any:
    """Reserve a place for each process; returns the placement group.

    Others may use the cluster: waits so many seconds for room. Raises P2PFLError after that.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([share_of(options)] * processes, strategy=options.placement.upper())
    try:
        began, told = time.monotonic(), False
        while not ray.wait([group.ready()], timeout=_WAIT_SECONDS)[0]:
            waited = time.monotonic() - began
            if waited > seconds:
                raise P2PFLError(
                    f"--launcher ray: no room on the cluster within {seconds:.0f} s (--start-timeout); others use it"
                )
            if waited > _SILENT_SECONDS and not told:
                told = True
                say(f"waiting for room on the cluster: {_listed(ray.available_resources())} free")
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def describe_places(group: Any) -> str:
    """Numbers of places and of the nodes that have them, as text."""
    from ray.util.placement_group import placement_group_table

    places = placement_group_table(group)["bundles_to_node_id"].values()
    return f"{counted(len(places), 'process')} on {counted(len(set(places)), 'node')} of the cluster"
