"""Runs of eight with one scripted attacker, and the accuracy of the others."""

from __future__ import annotations

from pathlib import Path

from tests.support.fault_scripts import fault

from p2pfl.run.records import read_rounds

ATTACKER = 3
OTHERS = [peer for peer in range(8) if peer != ATTACKER]
# Ten classes: chance is 10 %.
PLAIN = {
    "dataset": "digits",
    "model": "user_models:linear",
    "rounds": 6,
    "batch_size": 16,
    "lr": 0.02,
    "threads": 1,
    "checkpoint": False,
    "eval_samples": 32,
}


def attack_script(folder: Path, attack: str) -> str:
    """The path of a script with one attacker in all rounds, by NAME or NAME:SCALE."""
    name, _, scale = attack.partition(":")
    fields = {"kind": "attack", "peer": str(ATTACKER), "rounds": [1, PLAIN["rounds"]], "attack": name}
    path = folder / "attack.toml"
    path.write_text(fault(**fields, **({"scale": float(scale)} if scale else {})))
    return str(path)


def honest_accuracy(run_dir: Path) -> tuple[float, float]:
    """Honest peers' accuracy on the whole test set.

    Their mean after training, and peer 0's after the consensus phase.
    """
    records = [read_rounds(run_dir / "peers" / str(peer)) for peer in OTHERS]
    trained = [next(r for r in reversed(found) if r.phase == "train").test_accuracy for found in records]
    consensus = records[0][-1]
    assert consensus.phase == "consensus"
    return sum(accuracy or 0.0 for accuracy in trained) / len(trained), consensus.test_accuracy or 0.0
