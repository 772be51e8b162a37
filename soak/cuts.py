"""A whole tiny swarm killed at random instants, and resumed until it ends: with the same bits as if nothing had been.

`python -m soak.cuts --cuts 1000 --command-line 50`. Most cuts hit a swarm whose three peers are threads of one process
(real sockets, real files), forked from a server that has imported everything, so that a cut takes a second or two;
SIGKILL ends them all at one instant. The others go through the command line: launcher, fork server and peers, killed
one right after the other. Half of the instants are drawn from the time that a run takes, the others are those at which
a checkpoint is being written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch
from torch import nn

from p2pfl import RunConfig, data, make_topology
from p2pfl.modes import assign_roles
from p2pfl.node import messages
from p2pfl.node.control import Control
from p2pfl.node.worker import run
from p2pfl.run import checkpoint
from p2pfl.run.directory import create_run_dir
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.records import read_rounds
from p2pfl.topology import save_topology

PEERS, ROUNDS = 3, 4
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "soak.cuts:model",
    "rounds": ROUNDS,
    "local_steps": 2,
    "batch_size": 8,
    "threads": 1,
    "eval_every": 1000,
    "eval_samples": 20,
}
TIMES = {"elapsed", "bytes_sent", "bytes_received", "sent_to", "refused"}
PATIENCE = 120.0  # seconds that a swarm may take
LOOK_SECONDS = 0.0005


def model(num_classes: int) -> nn.Module:
    """The smallest that has momentum and batch normalization's statistics to lose."""
    pooled = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(48))
    return nn.Sequential(pooled, nn.Linear(48, num_classes))


@dataclass(frozen=True)
class Cut:
    """When to kill: after so many seconds, or as soon as that peer begins to write that round's checkpoint."""

    seconds: float = PATIENCE
    folder: Path | None = None
    round: int = 0

    def wait(self, sentinel: Callable[[float], bool]) -> bool:
        """Until it is time (True), or `sentinel`, asked with a time that it may take, says that all is over."""
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
    """In a process of its own: all peers as threads; exit status 0 if all have finished."""
    os.setsid()
    topology = make_topology("ring", PEERS)
    fingerprint = run_fingerprint(assign_roles(config, topology), config)
    sockets = Path(tempfile.mkdtemp(prefix="p2pfl-", dir=run_dir.parent))
    endpoints = {peer: f"ipc://{sockets}/{peer}" for peer in range(PEERS)}
    codes: dict[int, int] = {}

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
        codes[index] = run(spec, lambda message: None, Control())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(PEERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(sockets, ignore_errors=True)
    os._exit(0 if codes == dict.fromkeys(range(PEERS), 0) else 1)


class _Threads:
    """Swarms of threads, each in a process forked from one server."""

    def __init__(self, folder: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["soak.cuts"])
        self._dataset = data.prepare("digits", None, lambda *_: None)
        self._folder = folder
        self._number = 0

    def new(self) -> Path:
        """A run directory."""
        self._number += 1
        config = RunConfig.of(**OPTIONS, run_dir=str(self._folder / str(self._number)))
        return create_run_dir(make_topology("ring", PEERS), config)

    def go(self, run_dir: Path, resume: bool, cut: Cut | None) -> bool | None:
        """Run it until it is cut; whether it has ended well, None where it was cut."""
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


class _Commands:
    """Swarms as a user starts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        save_topology(make_topology("ring", PEERS), folder / "ring.graphml")

    def new(self) -> Path:
        """A run directory that is not made yet."""
        self._number += 1
        return self._folder / f"command-{self._number}"

    def go(self, run_dir: Path, resume: bool, cut: Cut | None) -> bool | None:
        """Run it until it is cut; whether it has ended well, None where it was cut."""
        if resume and (run_dir / "config.toml").exists():
            words = ["--resume", str(run_dir)]
        else:
            shutil.rmtree(run_dir, ignore_errors=True)  # it was cut before anything was there to go on with
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
    """The process and all that it started, as fast as it goes."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in family:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
    psutil.wait_procs(family, timeout=20)


def _result(run_dir: Path) -> dict[str, Any]:
    """What must not differ: the model, the last checkpoints, and the records without their times."""
    found: dict[str, Any] = {"model": (run_dir / "consensus.safetensors").read_bytes()}
    for peer in range(PEERS):
        folder = run_dir / "peers" / str(peer)
        saved, refused = checkpoint.newest(folder / "checkpoint")
        assert saved is not None and not refused  # noqa: PT018
        found[f"checkpoint {peer}"] = (saved.round, saved.steps, saved.x.tolist(), saved.momentum.tolist())
        found[f"records {peer}"] = [
            {k: v for k, v in msgspec.structs.asdict(r).items() if k not in TIMES and "seconds" not in k}
            for r in read_rounds(folder)
        ]
    return found


def _newest(run_dir: Path) -> list[int]:
    """By peer the newest round that it has saved."""
    found = []
    for peer in range(PEERS):
        names = (run_dir / "peers" / str(peer) / "checkpoint").glob("round-*.safetensors")
        found.append(max((int(path.stem.removeprefix("round-")) for path in names), default=0))
    return found


def _draw(rng: random.Random, run_dir: Path, usual: float) -> Cut:
    peer = rng.randrange(PEERS)
    saved = _newest(run_dir)[peer]
    if saved < ROUNDS and rng.random() < 0.5:
        return Cut(folder=run_dir / "peers" / str(peer) / "checkpoint", round=rng.randint(saved + 1, ROUNDS))
    return Cut(seconds=rng.uniform(0, usual))


def soak(swarms: _Threads | _Commands, cuts: int, rng: random.Random, kept: Path) -> dict[str, Any]:
    """So many cuts, each followed by another one half of the time, until the swarm has ended."""
    calm = swarms.new()
    assert swarms.go(calm, False, None), "the swarm does not run"
    wanted, began = _result(calm), time.monotonic()
    assert swarms.go(swarms.new(), False, None)  # once more, for the time that it takes when everything is started
    usual, began = time.monotonic() - began, time.monotonic()
    hits: Counter[str] = Counter()
    done = runs = 0
    failures: list[str] = []
    while done < cuts and len(failures) < 5:
        run_dir, resume, ended = swarms.new(), False, None
        while ended is None:
            cut = _draw(rng, run_dir, usual) if done < cuts and (not resume or rng.random() < 0.5) else None
            ended = swarms.go(run_dir, resume, cut)
            done, resume = done + (ended is None), True
            hits.update(_where(run_dir) if ended is None else [])
        runs += 1
        differs = [name for name, value in _result(run_dir).items() if value != wanted[name]] if ended else []
        if not ended or differs:
            shutil.copytree(run_dir, kept / run_dir.name, dirs_exist_ok=True)
            failures.append(f"{run_dir.name}: {'differs in ' + ', '.join(differs) if ended else 'does not resume'}")
        shutil.rmtree(run_dir, ignore_errors=True)
        if runs % 20 == 0:
            print(f"{done} of {cuts} cuts, {len(failures)} failures", file=sys.stderr, flush=True)
    figures = {"cuts": done, "runs": runs, "seconds": round(time.monotonic() - began, 1), "usual": round(usual, 2)}
    return {**figures, "hits": dict(sorted(hits.items())), "failures": failures}


def _where(run_dir: Path) -> list[str]:
    """What a cut has hit."""
    saved = _newest(run_dir)
    half = any((run_dir / "peers").glob("*/checkpoint/.round-*"))
    spots = {"before any save": not any(saved), "peers in different rounds": len(set(saved)) > 1, "amid a save": half}
    return [spot for spot, hit in spots.items() if hit]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cuts", type=int, default=1000, help="SIGKILLs of a whole swarm, all in all (default: 1000)")
    parser.add_argument("--command-line", type=int, default=50, help="of these, through the command line (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    parser.add_argument("--keep", type=Path, default=Path("soak/results"), help="where failing runs are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="p2pfl-soak-") as name:
        quick = arguments.cuts - arguments.command_line
        if quick > 0:
            figures["threads"] = soak(_Threads(Path(name)), quick, rng, arguments.keep)
        if arguments.command_line > 0:
            figures["command line"] = soak(_Commands(Path(name)), arguments.command_line, rng, arguments.keep)
    print(json.dumps(figures))
    failed = [failure for part in figures.values() for failure in part["failures"]]
    print(f"FAILED: {'; '.join(failed)}" if failed else "every one resumed, none differs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
