"""Swarms that can be cut: threads of one process, or started by the command line."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from p2pfl import RunConfig, data, make_topology
from p2pfl.faults import FaultScript
from p2pfl.launch.recovery import recover, recovery_line
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.worker import run
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.topology import save_topology

PEERS, ROUNDS = 3, 4
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "soak.cut_swarms:model",
    "rounds": ROUNDS,
    "local_steps": 2,
    "batch_size": 8,
    "threads": 1,
    "eval_every": 1000,
    "eval_samples": 20,
}
TIMEOUT = 120.0  # seconds that a swarm may take
LOOK_SECONDS = 0.0005


def model(num_classes: int) -> nn.Module:
    """Smallest model with momentum and batch norm statistics, which could be lost."""
    pooled = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(48))
    return nn.Sequential(pooled, nn.Linear(48, num_classes))


@dataclass(frozen=True)
class Cut:
    """Instant of a kill: after some seconds, or in the writing of a checkpoint.

    The latter is when that peer begins to write that round's checkpoint.
    """

    seconds: float = TIMEOUT
    folder: Path | None = None
    round: int = 0

    def wait(self, sentinel: Callable[[float], bool]) -> bool:
        """Wait for the instant (True), or until `sentinel` says that the run has ended.

        `sentinel` gets the seconds that it may wait.
        """
        deadline = time.monotonic() + self.seconds
        if self.folder is None:
            return not sentinel(self.seconds)
        while not self._is_writing():
            if sentinel(LOOK_SECONDS):
                return False
            if time.monotonic() > deadline:
                return True
        return True

    def _is_writing(self) -> bool:
        assert self.folder is not None
        with contextlib.suppress(FileNotFoundError):
            return any(f"round-{self.round:06d}" in name for name in os.listdir(self.folder))
        return False


def _swarm(config: RunConfig, run_dir: Path, dataset: Path, resume: bool) -> None:
    """Process with all peers as threads; exit status 0 if all have finished."""
    os.setsid()
    # After a fork torch makes a new pool of threads at its first use. Where threads of a process meet there, one of
    # them fails ("Invalid thread pool!", torch 2.14). A worker sets its number of threads before it starts any.
    torch.set_num_threads(1)
    topology = make_topology("ring", PEERS)
    fingerprint = run_fingerprint(assign_roles(config, topology), config)
    sockets = Path(tempfile.mkdtemp(prefix="p2pfl-", dir=run_dir.parent))
    endpoints = {peer: f"ipc://{sockets}/{peer}" for peer in range(PEERS)}

    def report(message: messages.FromWorker) -> None:
        """End the swarm with the first peer that fails: the others would wait for it."""
        if isinstance(message, messages.Failed):
            print(f"{run_dir}: {message.reason}", file=sys.stderr, flush=True)
            os._exit(1)

    def work(index: int) -> None:
        spec = messages.WorkerSpec(
            config=config,
            run_dir=run_dir,
            dataset=dataset,
            index=index,
            run=fingerprint,
            settings=fingerprint,
            bind=endpoints[index],
            resume=resume,
            endpoints=endpoints,
        )
        if run(spec, report, Control()) != 0:
            os._exit(1)

    if resume and (line := recovery_line(assign_roles(config, topology), config, run_dir)) is not None:
        recover(line, assign_roles(config, topology), config, run_dir, FaultScript(names=topology.names))
    threads = [threading.Thread(target=work, args=(index,)) for index in range(PEERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(sockets, ignore_errors=True)
    os._exit(0)


class ThreadSwarms:
    """Swarms of threads, each in a process forked from one server."""

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["soak.cut_swarms"])
        self._dataset = data.prepare("digits", None, lambda *_: None)
        self._folder = folder
        self._number = 0

    def new(self) -> Path:
        """New run directory."""
        self._number += 1
        config = RunConfig.of(**OPTIONS, run_dir=str(self._folder / str(self._number)))
        return create_run_dir(make_topology("ring", PEERS), config)

    def go(self, run_dir: Path, resume: bool, cut: Cut | None) -> bool | None:
        """Run a swarm until the cut; whether it succeeded, None if it was cut."""
        config = RunConfig.of(**OPTIONS)
        process = self._context.Process(target=_swarm, args=(config, run_dir, self._dataset, resume))
        process.start()

        def is_over(seconds: float) -> bool:
            process.join(seconds)
            return not process.is_alive()

        if (cut or Cut()).wait(is_over):
            process.kill()
            process.join()
            return None if cut else False
        return process.exitcode == 0


class CommandSwarms:
    """Swarms started by the command line, as a user does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        save_topology(make_topology("ring", PEERS), folder / "ring.graphml")

    def new(self) -> Path:
        """Path of a new run directory, which is not made yet."""
        self._number += 1
        return self._folder / f"command-{self._number}"

    def go(self, run_dir: Path, resume: bool, cut: Cut | None) -> bool | None:
        """Run a swarm until the cut; whether it succeeded, None if it was cut."""
        if resume and (run_dir / "config.toml").exists():
            words = ["--resume", str(run_dir)]
        else:
            shutil.rmtree(run_dir, ignore_errors=True)  # the cut came before there was anything to resume
            options = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
            words = [str(self._folder / "ring.graphml"), *options, "--run-dir", str(run_dir)]
        program = [sys.executable, "-m", "p2pfl", "gossip", *words]
        process = subprocess.Popen(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

        def is_over(seconds: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            return process.poll() is not None

        if (cut or Cut()).wait(is_over):
            _kill_all(process)
            return None if cut else False
        return process.returncode == 0


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants as fast as possible."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
    psutil.wait_procs(family, timeout=20)
