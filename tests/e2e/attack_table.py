"""Table of accuracies under one attacker of eight, for each rule of averaging.

`python tests/e2e/attack_table.py`

VGG-11 at width 0.125 on the digits, 6 rounds of one local epoch; workers as threads over the memory transport. Gossip:
full mesh, the mean of the honest peers after the last training round. Centralized: eight of eight clients, the global
model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.attacked import PLAIN, attack_script, honest_accuracy
from tests.support.swarms import memory_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.modes import topology_of
from p2pfl.run.records import read_rounds

ATTACKS = ("", "sign-flip:1", "label-flip", "a-little-is-enough:20", "inner-product:10")
GOSSIP = ("dpsgd", "clipped", "trimmed-mean", "median")
CENTRALIZED = ("uniform", "trimmed-mean", "median", "krum")
COMMON = {**PLAIN, "model": "vgg11", "width": 0.125}


def gossip(rule: str, folder: str, faults: str | None) -> float:
    robust = {} if rule == "dpsgd" else {"byzantine": 1}
    config = RunConfig.of(**COMMON, algorithm=rule, **robust, faults=faults, run_dir=f"{folder}/run")
    return honest_accuracy(memory_swarm(make_topology("complete", 8), config))[0]


def centralized(rule: str, folder: str, faults: str | None) -> float:
    robust = {} if rule == "uniform" else {"byzantine": 1}
    clients = {"num_clients": 8, "num_selected": 8, "eval_samples": 0, "averaging": rule, **robust}
    config = RunConfig.of(mode="centralized", **{**COMMON, **clients}, faults=faults, run_dir=f"{folder}/run")
    topology = topology_of(config)
    assert topology is not None
    run_dir = memory_swarm(topology, config)
    return read_rounds(run_dir / "peers" / "coordinator")[-1].test_accuracy or 0.0


def main() -> None:
    for mode, measure, rules in (("gossip", gossip, GOSSIP), ("centralized", centralized, CENTRALIZED)):
        print(f"\n| {mode} | " + " | ".join(rules) + " |\n|---|" + "---:|" * len(rules), flush=True)
        for attack in ATTACKS:
            print(f"| {attack.replace(':', ', scale ') or 'none'} |", end="", flush=True)
            for rule in rules:
                with tempfile.TemporaryDirectory() as folder:
                    script = attack_script(Path(folder), attack) if attack else None
                    print(f" {measure(rule, folder, script):.1%} |", end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
