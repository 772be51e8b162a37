"""One attacker of eight on the full mesh: plain averaging fails, and the robust rules learn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.swarms import memory_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.run.records import read_rounds

pytestmark = pytest.mark.usefixtures("blank_plots")

ATTACKER = 3
OTHERS = [peer for peer in range(8) if peer != ATTACKER]
# Ten classes: chance is 10 %.
PLAIN = {
    "dataset": "digits",
    "model": "hostile_models:linear",
    "rounds": 6,
    "batch_size": 16,
    "lr": 0.02,
    "threads": 1,
    "checkpoint": False,
    "eval_samples": 32,
}
FLIP = "sign-flip:8"
LITTLE = "a-little-is-enough:400"
INNER = "inner-product:40"
LABELS = "label-flip"


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[str]:
    """For processes that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2PFL_TEST_ATTACK", f"{ATTACKER}:{request.param}")
        yield request.param
    assert "P2PFL_TEST_ATTACK" not in os.environ


def honest_accuracy(run_dir: Path) -> tuple[float, float]:
    """Of the honest peers the mean after training, and peer 0's after the consensus phase; on the whole test set."""
    records = [read_rounds(run_dir / "peers" / str(peer)) for peer in OTHERS]
    trained = [next(r for r in reversed(found) if r.phase == "train").test_accuracy for found in records]
    consensus = records[0][-1]
    assert consensus.phase == "consensus"
    return sum(accuracy or 0.0 for accuracy in trained) / len(trained), consensus.test_accuracy or 0.0


def gossip_options(algorithm: str) -> dict[str, object]:
    return {"algorithm": algorithm, **({} if algorithm == "dpsgd" else {"byzantine": 1})}


@pytest.mark.parametrize("attack", [FLIP, INNER], indirect=True)
@pytest.mark.parametrize("algorithm", ["dpsgd", "clipped", "trimmed-mean", "median"])
def test_over_the_memory_transport(tmp_path: Path, attack: str, algorithm: str) -> None:
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), run_dir=str(tmp_path / "run"))
    trained, consensus = honest_accuracy(memory_swarm(make_topology("complete", 8), config))
    if algorithm == "dpsgd":
        assert trained < 0.3
        assert consensus < 0.3
    else:
        assert trained > 0.85
        assert consensus > 0.85


@pytest.mark.parametrize("attack", [FLIP], indirect=True)
@pytest.mark.parametrize("algorithm", ["clipped", "trimmed-mean", "median"])
def test_overlapped_with_a_bfloat16_wire(tmp_path: Path, attack: str, algorithm: str) -> None:
    ways = {"order": "overlapped", "wire_dtype": "bf16"}
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), **ways, run_dir=str(tmp_path / "run"))
    trained, consensus = honest_accuracy(memory_swarm(make_topology("complete", 8), config))
    assert trained > 0.85
    assert consensus > 0.85


@pytest.mark.processes
@pytest.mark.parametrize(
    ("attack", "algorithm", "learns"),
    [
        (FLIP, "dpsgd", False),
        (LITTLE, "dpsgd", False),
        (INNER, "dpsgd", False),
        (FLIP, "clipped", True),
        (LITTLE, "trimmed-mean", True),
        (INNER, "median", True),
        (LABELS, "clipped", True),
    ],
    indirect=["attack"],
)
def test_real_processes_on_the_full_mesh(tmp_path: Path, attack: str, algorithm: str, learns: bool) -> None:
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), run_dir=str(tmp_path / "run"))
    result = run(config, make_topology("complete", 8))
    trained, consensus = honest_accuracy(result.run_dir)
    assert result.summary["consensus_accuracy"] == pytest.approx(consensus)
    assert (trained > 0.85) == (consensus > 0.85) == learns
    assert learns or max(trained, consensus) < 0.5


@pytest.mark.processes
@pytest.mark.parametrize(
    ("attack", "averaging", "learns"),
    [
        (FLIP, "uniform", False),
        (INNER, "uniform", False),
        (FLIP, "krum", True),
        (INNER, "trimmed-mean", True),
        (LITTLE, "median", True),
        (LABELS, "krum", True),
    ],
    indirect=["attack"],
)
def test_real_processes_with_a_coordinator(tmp_path: Path, attack: str, averaging: str, learns: bool) -> None:
    robust = {} if averaging == "uniform" else {"byzantine": 1}
    config = RunConfig.of(
        mode="centralized",
        **{**PLAIN, "eval_samples": 0},
        num_clients=8,
        num_selected=8,
        averaging=averaging,
        **robust,
        run_dir=str(tmp_path / "run"),
    )
    accuracy = run(config).summary["consensus_accuracy"]
    assert (accuracy > 0.85) == learns
    assert learns or accuracy < 0.5
