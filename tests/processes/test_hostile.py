"""One attacker of eight on the full mesh: the mean fails, robust rules learn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.attacked import PLAIN, attack_script, honest_accuracy
from tests.support.swarms import memory_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run

pytestmark = pytest.mark.usefixtures("blank_plots")

FLIP = "sign-flip:8"
LITTLE = "a-little-is-enough:400"
INNER = "inner-product:40"
LABELS = "label-flip"


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return attack_script(tmp_path, request.param)


def gossip_options(algorithm: str) -> dict[str, object]:
    return {"algorithm": algorithm, **({} if algorithm == "dpsgd" else {"byzantine": 1})}


@pytest.mark.parametrize("script", [FLIP, INNER], indirect=True)
@pytest.mark.parametrize("algorithm", ["dpsgd", "clipped", "trimmed-mean", "median"])
def test_over_the_memory_transport(tmp_path: Path, script: str, algorithm: str) -> None:
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), faults=script, run_dir=str(tmp_path / "run"))
    trained, consensus = honest_accuracy(memory_swarm(make_topology("complete", 8), config))
    if algorithm == "dpsgd":
        assert trained < 0.3
        assert consensus < 0.3
    else:
        assert trained > 0.85
        assert consensus > 0.85


@pytest.mark.parametrize("script", [FLIP], indirect=True)
@pytest.mark.parametrize("algorithm", ["clipped", "trimmed-mean", "median"])
def test_overlapped_with_a_bfloat16_wire(tmp_path: Path, script: str, algorithm: str) -> None:
    ways = {"order": "overlapped", "wire_dtype": "bf16"}
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), **ways, faults=script, run_dir=str(tmp_path / "run"))
    trained, consensus = honest_accuracy(memory_swarm(make_topology("complete", 8), config))
    assert trained > 0.85
    assert consensus > 0.85


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "algorithm", "learns"),
    [
        (FLIP, "dpsgd", False),
        (LITTLE, "dpsgd", False),
        (INNER, "dpsgd", False),
        (FLIP, "clipped", True),
        (LITTLE, "trimmed-mean", True),
        (INNER, "median", True),
        (LABELS, "clipped", True),
    ],
    indirect=["script"],
)
def test_real_processes_on_the_full_mesh(tmp_path: Path, script: str, algorithm: str, learns: bool) -> None:
    config = RunConfig.of(**PLAIN, **gossip_options(algorithm), faults=script, run_dir=str(tmp_path / "run"))
    result = run(config, make_topology("complete", 8))
    trained, consensus = honest_accuracy(result.run_dir)
    assert result.summary["consensus_accuracy"] == pytest.approx(consensus)
    assert (trained > 0.85) == (consensus > 0.85) == learns
    assert learns or max(trained, consensus) < 0.5


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "averaging", "learns"),
    [
        (FLIP, "uniform", False),
        (INNER, "uniform", False),
        (FLIP, "krum", True),
        (INNER, "trimmed-mean", True),
        (LITTLE, "median", True),
        (LABELS, "krum", True),
    ],
    indirect=["script"],
)
def test_real_processes_with_a_coordinator(tmp_path: Path, script: str, averaging: str, learns: bool) -> None:
    robust = {} if averaging == "uniform" else {"byzantine": 1}
    config = RunConfig.of(
        mode="centralized",
        **{**PLAIN, "eval_samples": 0},
        num_clients=8,
        num_selected=8,
        averaging=averaging,
        **robust,
        faults=script,
        run_dir=str(tmp_path / "run"),
    )
    accuracy = run(config).summary["consensus_accuracy"]
    assert (accuracy > 0.85) == learns
    assert learns or accuracy < 0.5
