"""Cuts of a whole tiny swarm at random instants, each followed by a resume.

`python -m soak.cuts --cuts 1000 --command-line 50`. The bits at the end must be those of an undisturbed run. Most cuts
hit a swarm whose three peers are threads of one process (real sockets, real files), forked from a server that has
imported everything, so that a cut takes a second or two; SIGKILL ends them all at one instant. The others use the
command line: launcher, fork server and peers, killed one right after the other. Half of the instants are drawn from the
time that a run takes, the others fall into the writing of a checkpoint. With `--checkpoint-every 2` peers go back to
the newest round that all have.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import torch

from p2pfl.run import checkpoint
from p2pfl.run.records import read_rounds
from soak.cut_swarms import OPTIONS, PEERS, ROUNDS, CommandSwarms, Cut, ThreadSwarms

TIMES = {"elapsed", "bytes_sent", "bytes_received", "sent_to", "refused"}


def _result(run_dir: Path) -> dict[str, Any]:
    """Result that must not differ: model, last checkpoints, records without times."""
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
    """Newest saved round of each peer."""
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


def soak(swarms: ThreadSwarms | CommandSwarms, cuts: int, rng: random.Random, kept: Path) -> dict[str, Any]:
    """Cut swarms `cuts` times; half of the cuts hit a swarm that was resumed."""
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
    """States of the swarm that a cut has hit."""
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
    parser.add_argument("--checkpoint-every", type=int, default=1, help="rounds between two checkpoints (default: 1)")
    arguments = parser.parse_args()
    OPTIONS["checkpoint_every"] = arguments.checkpoint_every
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="p2pfl-soak-") as name:
        quick = arguments.cuts - arguments.command_line
        if quick > 0:
            figures["threads"] = soak(ThreadSwarms(Path(name)), quick, rng, arguments.keep)
        if arguments.command_line > 0:
            figures["command line"] = soak(CommandSwarms(Path(name)), arguments.command_line, rng, arguments.keep)
    print(json.dumps(figures))
    failed = [failure for part in figures.values() for failure in part["failures"]]
    print(f"FAILED: {'; '.join(failed)}" if failed else "every one resumed, none differs")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
