"""Random kills and restarts during a run, which must end as an undisturbed one.

`python -m soak.kills --kills 200`. No process may hang or be left over, and the accuracy must be that of a run without
kills. A ring of eight peers trains on the bundled digits, once undisturbed and once while this process sends SIGKILL to
a random worker again and again (seeded; in training, exchange, evaluation, saving or starting). The launcher starts the
victims again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
POINTS = 2.0  # that the accuracy may differ by, in percent
SHARE = 0.75  # of the time that the run takes in peace, within which the kills come: fast machines are done earlier
SILENCE = 180.0  # seconds without a line of progress count as hanging
SETTINGS = shlex.split(
    "--dataset digits --model vgg11 --width 0.0625 --batch-size 16 --local-steps 2 --lr 0.02 --threads 1"
    " --grace-timeout 2 --round-timeout 10 --eval-every 50 --eval-samples 60"
)


class _Watched:
    """Run whose lines a separate thread reads."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.run_dir = folder / "run"
        words = ["gossip", str(ROOT / "topologies" / "ring-8.graphml"), *SETTINGS, "--run-dir", str(self.run_dir)]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_peers.py"), *words, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self.heard = time.monotonic()

    def workers(self) -> dict[str, psutil.Process]:
        """Worker processes by peer: those that write the peers' logs."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    for file in process.open_files():
                        path = Path(file.path)
                        if path.name == "log.txt" and path.parent.parent == self.run_dir / "peers":
                            found[path.parent.name] = process
        return found

    def is_running(self) -> bool:
        return self.process.poll() is None

    def has_begun(self) -> bool:
        return any(line.startswith("round ") for line in self.lines)


def soak(kills: int, rounds: int, seed: int, every: float | None) -> dict[str, Any]:
    """Do both runs; returns figures and the outcomes of the checks."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="p2pfl-soak-") as name:
        folder = Path(name)
        (folder / "peace").mkdir()
        (folder / "war").mkdir()
        began = time.monotonic()
        calm = _Watched(folder / "peace", "--rounds", str(rounds))
        calm.process.wait()
        every = every or SHARE * (time.monotonic() - began) / kills
        began = time.monotonic()
        run = _Watched(folder / "war", "--rounds", str(rounds), "--restart", "100000", "--min-peers", "4")
        done, hung = _attack(run, kills, rng, every)
        family = psutil.Process(run.process.pid).children(recursive=True) if run.is_running() else []
        while run.is_running() and not hung:
            hung = time.monotonic() > run.heard + SILENCE
            time.sleep(0.2)
        if hung:
            os.killpg(run.process.pid, 9)
        code = run.process.wait()
        orphans = [process for process in psutil.wait_procs(family, timeout=10)[1] if process.is_running()]
        summaries = [_summary(watched.run_dir) for watched in (calm, run)]
        accuracies = [summary.get("consensus_accuracy") or 0.0 for summary in summaries]
        restarts = sum((summaries[1].get("restarts") or {}).values())
        return {
            "kills": done,
            "restarts": restarts,
            "rounds": rounds,
            "seconds": round(time.monotonic() - began, 1),
            "accuracy": [round(100 * accuracy, 2) for accuracy in accuracies],
            "last_lines": run.lines[-4:],
            "checks": {
                "as many kills as asked for": done >= kills,
                "it ends": not hung and code == 0,
                "nobody is lost": summaries[1].get("lost_peers") == [],
                "nothing is left": not orphans,
                "it learns": accuracies[1] >= accuracies[0] - POINTS / 100,
            },
        }


def _attack(run: _Watched, kills: int, rng: random.Random, every: float) -> tuple[int, bool]:
    """Kill workers `kills` times, or until the run ends.

    Returns the number of kills, and whether the run hangs.
    """
    done = 0
    while run.is_running() and done < kills:
        time.sleep(rng.expovariate(1 / every))
        if time.monotonic() > run.heard + SILENCE:
            return done, True
        workers = run.workers()
        if not run.has_begun() or len(workers) <= 4:
            continue  # four must live
        victim = rng.choice(sorted(workers))
        with contextlib.suppress(psutil.Error):
            workers[victim].kill()
            done += 1
            if done % 10 == 0:
                print(f"{done} of {kills} kills", file=sys.stderr, flush=True)
    return done, False


def _summary(run_dir: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    except OSError:
        return {}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs (default: 200)")
    parser.add_argument("--rounds", type=int, default=1500, help="rounds of the run (default: 1500)")
    parser.add_argument("--every", type=float, help="mean seconds between two kills (default: as the run has time for)")
    parser.add_argument("--seed", type=int, default=0, help="of victims and instants (default: 0)")
    arguments = parser.parse_args()
    figures = soak(arguments.kills, arguments.rounds, arguments.seed, arguments.every)
    print(json.dumps(figures))
    failed = [name for name, held in figures["checks"].items() if not held]
    print(f"FAILED: {', '.join(failed)}" if failed else "all promises held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
