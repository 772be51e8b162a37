"""Golden runs: hashes of small runs, to compare two versions of the code.

Both versions run on the same machine.

`python tests/e2e/golden.py --out new.json` runs the code of this work tree, `--root TREE --out old.json` that of
another one, and `--compare old.json new.json` says what differs (exit status 1). Only commands and files are used, no
module of the project, so one script reads all versions: NAMES maps the field names of records. Hashed are the final
model's tensors, each peer's sketches, and its records without times and byte counts that depend on repeated messages.

About 30 runs of some seconds each. Bits depend on the machine, its libraries and thread count, so nothing is stored.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ROOT / "topologies"
COMMON = ["--dataset", "digits", "--model", "golden_model:net", "--batch-size", "16", "--local-steps", "3"]
COMMON += ["--threads", "1", "--device", "cpu", "--eval-every", "2", "--eval-samples", "64", "--seed", "5"]
COMMON += ["--rounds", "6"]
MODEL = """
from torch import nn


def net(num_classes):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(body, nn.Linear(256, num_classes))
"""
# Field in records of any version -> its name here; what is not named keeps its name.
NAMES: Mapping[str, str] = {}
# Depend on the clock, or on how often something had to be sent again.
LEFT_OUT = {"elapsed", "bytes_sent", "bytes_received", "sent_to", "refused"}
LEFT_OUT |= {"own_accuracy", "class_accuracy"}  # not recorded before version 0.2.0
LEFT_OUT |= {"evaluated_on"}  # nor in version 0.2.0
TIME_LIMIT = 240.0  # seconds that a run may take


@dataclass(frozen=True)
class Case:
    """One run: a command and its options.

    `script`: text of a fault script. `kill`: the round after which all processes are killed.
    """

    name: str
    command: str
    topology: str = ""
    options: str = ""
    script: str = ""
    kill: int = 0

    def words(self, folder: Path) -> list[str]:
        """Words of the command line for the first start, after `p2pfl`."""
        words = [self.command, *([str(TOPOLOGIES / self.topology)] if self.topology else []), *COMMON]
        if self.script:
            (folder / "faults.toml").write_text(self.script)
            words += ["--faults", str(folder / "faults.toml")]
        return [*words, *self.options.split(), "--run-dir", str(folder / "run")]


def _fault(kind: str, **fields: Any) -> str:
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    return f'[[fault]]\nkind = "{kind}"\n{lines}\n'


def _attack(attack: str, peer: str = "1", rounds: Sequence[int] = (2, 6)) -> str:
    return _fault("attack", peer=peer, rounds=list(rounds), attack=attack)


RING, STAR, MESH = "ring-4.graphml", "star-8.graphml", "mesh-4.graphml"
ROBUST = "--algorithm {} --byzantine 1"
CLIENTS = "--num-clients 4 --num-selected 3"
CASES = [
    Case("ring", "gossip", RING),
    Case("ring overlapped", "gossip", RING, "--order overlapped --lr 0.01"),
    Case("ring bf16", "gossip", RING, "--wire-dtype bf16"),
    Case("ring overlapped bf16", "gossip", RING, "--order overlapped --wire-dtype bf16 --lr 0.01"),
    Case("star", "gossip", STAR),
    Case("weighted", "gossip", "weighted-4.json", "--mixing weights"),
    Case("directed exponential", "gossip", "exponential-16.graphml", "--mixing uniform --rounds 3"),
    Case("mesh over tcp", "gossip", MESH, "--transport tcp"),
    *(Case(rule, "gossip", MESH, ROBUST.format(rule)) for rule in ("clipped", "trimmed-mean", "median")),
    Case("clipped bf16", "gossip", MESH, ROBUST.format("clipped") + " --wire-dtype bf16"),
    *(Case(kind, "gossip", RING, script=_attack(kind)) for kind in ("sign-flip", "label-flip")),
    *(Case(kind, "gossip", RING, script=_attack(kind)) for kind in ("a-little-is-enough", "inner-product")),
    Case("median under attack", "gossip", MESH, ROBUST.format("median"), _attack("sign-flip")),
    Case(
        "kill and pause",
        "gossip",
        "ring-8.graphml",
        "--rounds 9",
        _fault("kill", peer="3", round=3, at="train", restart=5) + _fault("pause", peer="6", round=4, resume=7),
    ),
    Case(
        "partition and bad link",
        "gossip",
        RING,
        "",
        _fault("partition", rounds=[2, 3], parts=[["0", "1"], ["2", "3"]])
        + _fault("drop", edge=["0", "1"], rounds=[4, 5], probability=0.2)
        + _fault("corrupt", edge=["2", "3"], rounds=[4, 5], probability=0.2),
    ),
    Case("ring killed and resumed", "gossip", RING, kill=3),
    Case("overlapped killed and resumed", "gossip", RING, "--order overlapped --wire-dtype bf16 --lr 0.01", kill=3),
    *(Case(f"averaging {way}", "centralized", "", f"{CLIENTS} --averaging {way}") for way in ("uniform", "samples")),
    *(
        Case(f"averaging {way}", "centralized", "", f"--num-clients 5 --num-selected 5 --averaging {way} --byzantine 1")
        for way in ("trimmed-mean", "median", "krum")
    ),
    Case("server momentum", "centralized", "", f"{CLIENTS} --server-momentum 0.5 --wire-dtype bf16"),
    Case("proximal", "centralized", "", f"{CLIENTS} --proximal-mu 0.1 --reset-momentum"),
    Case("centralized killed and resumed", "centralized", "", CLIENTS, kill=3),
    Case("sgd", "sgd"),
    Case("sgd killed and resumed", "sgd", kill=3),
    Case("local", "local", RING),
]


def run(case: Case, root: Path, folder: Path) -> dict[str, str]:
    """Run a case with the code of `root`; returns hashes by name.

    Raises RuntimeError with the output of a failure.
    """
    (folder / "golden_model.py").write_text(MODEL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(folder)]), "NO_COLOR": "1"}
    program, run_dir = [sys.executable, "-m", "p2pfl"], folder / "run"
    code, printed = _go([*program, *case.words(folder)], environment, run_dir, case.kill)
    if case.kill:
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{case.name}: ended with {code} before it was killed\n{printed}")
        code, printed = _go([*program, case.command, "--resume", str(run_dir)], environment, run_dir, 0)
    if code:
        raise RuntimeError(f"{case.name}: exit status {code}\n{printed}")
    return _hashes(run_dir)


def _go(words: list[str], environment: Mapping[str, str], run_dir: Path, kill: int) -> tuple[int, str]:
    """Exit status and output of a command.

    Every process that it started is killed once one has recorded round `kill`.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            words, env=environment, cwd=run_dir.parent, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + TIME_LIMIT
        try:
            while process.poll() is None and time.monotonic() < deadline and not (kill and _recorded(run_dir, kill)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return process.returncode, output.read()


def _recorded(run_dir: Path, round: int) -> bool:
    files = run_dir.glob("peers/*/rounds.jsonl")
    return any(file.read_bytes().count(b"\n") >= round for file in files)


def _hashes(run_dir: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    if (path := run_dir / "consensus.safetensors").exists():  # local runs have none
        found["model"] = _model(path)
    for peer_dir in sorted((run_dir / "peers").iterdir()):
        lines = (peer_dir / "rounds.jsonl").read_text().splitlines()
        found[f"records {peer_dir.name}"] = _hash(json.dumps([record(json.loads(line)) for line in lines]).encode())
        with contextlib.suppress(FileNotFoundError):
            found[f"sketches {peer_dir.name}"] = _hash((peer_dir / "sketches.f32").read_bytes())
    return found


def record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record that must be equal, by their names here.

    Fields without a value are left out.
    """
    named = {NAMES.get(name, name): value for name, value in fields.items()}
    kept = {name for name in named if name not in LEFT_OUT and "seconds" not in name}
    return {name: named[name] for name in sorted(kept) if named[name] is not None}


def _model(path: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.update(f"{name}/{tensor.dtype}/{tensor.shape}/".encode() + tensor.tobytes())
    return digest.hexdigest()[:16]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def compare(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line about each case and hash that differs, or that only one side has."""
    lines = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name, {}), new.get(name, {})
        differs = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
        if differs:
            lines.append(f"{name}: {', '.join(differs)}")
    return lines


def main() -> int:
    """Run, or compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="work tree whose code is run (default: this one)")
    parser.add_argument("--only", default="", help="only cases whose names contain this")
    parser.add_argument("--out", type=Path, help="JSON file for the hashes")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="compare two such files")
    arguments = parser.parse_args()
    if arguments.compare:
        old, new = (json.loads(path.read_text()) for path in arguments.compare)
        lines = compare(old, new)
        print("\n".join([*lines, f"{len(lines)} of {len(set(old) | set(new))} cases differ"]))
        return 1 if lines else 0
    cases = [case for case in CASES if arguments.only in case.name]
    if not cases:
        parser.error(f"--only {arguments.only}: no such case")
    found: dict[str, dict[str, str]] = {}
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="g-") as folder:
            found[case.name] = run(case, arguments.root.resolve(), Path(folder))
        print(f"{case.name}: {_hash(json.dumps(found[case.name]).encode())}", flush=True)
        if arguments.out:  # after each case: it takes minutes
            arguments.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
