"""Plans of grids: cells, folders' names, matched samples, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.plans import plan_runs

from p2pfl import RunConfig, make_topology
from p2pfl.config import replace_options
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import Cell, CompareOptions, plan_cells

BASE = {"dataset": "digits", "rounds": 12, "local_steps": 5, "batch_size": 8}
RING, MESH = make_topology("ring", 4), make_topology("complete", 4)


def cells(
    algorithms: tuple[str, ...] = (), partitions: tuple[str, ...] = (), base: dict | None = None, **wanted: object
) -> dict[str, Cell]:
    found = CompareOptions((RING, MESH), algorithms=algorithms, partitions=partitions, **wanted)
    return {cell.name: cell for cell in plan_cells(RunConfig.of(**{**BASE, **(base or {})}), found)}


def test_names_hold_the_dimensions_that_vary() -> None:
    assert list(cells(("dpsgd", "exact-diffusion"))) == [
        "gossip-ring-4-dpsgd",
        "gossip-ring-4-exact-diffusion",
        "gossip-complete-4-dpsgd",
        "gossip-complete-4-exact-diffusion",
    ]
    assert list(cells(partitions=("iid", "dirichlet:0.5"), local=True, num_selected=(3,))) == [
        "gossip-ring-4-iid",
        "gossip-ring-4-dirichlet-0.5",
        "gossip-complete-4-iid",
        "gossip-complete-4-dirichlet-0.5",
        "centralized-3-of-4-iid",
        "centralized-3-of-4-dirichlet-0.5",
        "local-iid",
        "local-dirichlet-0.5",
    ]
    assert list(cells(sgd=True)) == ["gossip-ring-4", "gossip-complete-4", "sgd"], "as without lists"


def test_incompatible_cells_are_skipped_with_a_line_each_where_that_is_wanted() -> None:
    schedule = make_topology("base-k", 4)
    wanted = CompareOptions((RING, schedule), algorithms=("dpsgd", "relay-sum"), sgd=True, skip_incompatible=True)
    base, said = RunConfig.of(**BASE, mixing="auto"), list[str]()
    found = [cell.name for cell in plan_cells(base, wanted, said.append)]
    assert found == ["gossip-ring-4-dpsgd", "gossip-ring-4-relay-sum", f"gossip-{schedule.name}-dpsgd", "sgd"]
    (line,) = said
    assert line.startswith(f"skipped: gossip-{schedule.name}-relay-sum: ")
    assert "schedule of" in line
    with pytest.raises(ConfigError, match=f"gossip-{schedule.name}-relay-sum"):
        plan_cells(base, replace(wanted, skip_incompatible=False), said.append)
    with pytest.raises(ConfigError, match="schedule of"):
        plan_cells(replace_options(base, algorithm="relay-sum"), replace(wanted, topologies=(schedule,), algorithms=()))


def test_cells_have_their_algorithm_and_their_partition() -> None:
    found = cells(("dpsgd", "exact-diffusion"), ("iid", "dirichlet:0.5"), local=True)
    assert len(found) == 2 * 2 * 2 + 2
    one = found["gossip-ring-4-exact-diffusion-dirichlet-0.5"].config
    assert (one.gossip.algorithm, one.data.partition) == ("exact-diffusion", "dirichlet:0.5")
    assert found["local-iid"].config.data.partition == "iid"


def test_pooled_data_need_one_cell_unless_a_partition_uses_other_samples(tmp_path: Path) -> None:
    assert [name for name in cells(partitions=("iid", "dirichlet:0.5"), sgd=True) if "sgd" in name] == ["sgd"]
    rows = [f"{sample},{sample % 4}" for sample in range(256)]
    (tmp_path / "split.csv").write_text("\n".join(["sample,peer", *rows]))
    some = cells(partitions=("iid", f"file:{tmp_path / 'split.csv'}"), sgd=True)
    assert [name for name in some if "sgd" in name] == ["sgd-iid", "sgd-file-split.csv"]


def test_all_runs_of_a_partition_process_the_same_samples() -> None:
    wanted = CompareOptions((RING, MESH), (4, 3), sgd=True, local=True, partitions=("iid", "quantity:linear"))
    epochs = {**BASE, "local_steps": None, "local_epochs": 2, "batch_size": 50, "round_length": "epochs"}
    runs = {one.name: one.samples for one in plan_runs(RunConfig.of(**epochs), wanted)}
    shards = [143, 288, 431, 576]  # of 1438 samples, as 1, 2, 3, 4
    unequal = 12 * 50 * sum(2 * (size // 50) for size in shards)
    assert {samples for name, samples in runs.items() if "quantity" in name} == {unequal}
    assert {samples for name, samples in runs.items() if "-iid-" in name} == {12 * 50 * 4 * 2 * (1438 // 4 // 50)}
    assert {name for name in runs if name.startswith("sgd")} == {"sgd-iid-seed-0", "sgd-quantity-linear-seed-0"}


def test_what_an_algorithm_refuses_names_the_cell() -> None:
    with pytest.raises(ConfigError, match=r"gossip-ring-4-quasi-global: --momentum 0: quasi-global is a kind"):
        cells(("dpsgd", "quasi-global"), base={"momentum": 0.0})
    with pytest.raises(ConfigError, match=r"gossip-ring-4-quasi-global: --order overlapped: quasi-global has only"):
        cells(("dpsgd", "quasi-global"), base={"order": "overlapped"})
    with pytest.raises(ConfigError, match=r"^gossip-ring-4-no_module-Thing: .*no_module"):
        cells(("dpsgd", "no_module:Thing"))


def test_a_robust_algorithm_may_be_one_of_several_with_several_partitions() -> None:
    found = cells(partitions=("iid", "dirichlet:0.5"), algorithms=("dpsgd", "median"), base={"byzantine": 1})
    said = {name: cell.config.robust.byzantine for name, cell in found.items() if name.startswith("gossip")}
    assert {value for name, value in said.items() if "median" in name} == {1}
    assert {value for name, value in said.items() if "dpsgd" in name} == {None}


def test_min_samples_apply_to_partitions_that_draw_sizes() -> None:
    found = cells(partitions=("iid", "dirichlet:0.5"), base={"min_samples": 20})
    kept = {name: cell.config.data.min_samples for name, cell in found.items()}
    assert kept["gossip-ring-4-dirichlet-0.5"] == 20
    assert kept["gossip-ring-4-iid"] is None
    with pytest.raises(ConfigError, match="--min-samples 20: means nothing with --partition iid"):
        cells(partitions=("iid", "classes:2"), base={"min_samples": 20})


def test_own_data_are_no_column() -> None:
    with pytest.raises(ConfigError, match="own cannot be one of several"):
        cells(partitions=("iid", "own"))


def test_byzantine_applies_to_the_robust_algorithms_among_several() -> None:
    found = cells(("dpsgd", "median"), base={"byzantine": 1})
    assert found["gossip-ring-4-median"].config.robust.byzantine == 1
    assert found["gossip-ring-4-dpsgd"].config.robust.byzantine is None


def test_an_option_of_one_algorithm_is_no_obstacle_to_the_others() -> None:
    options = {"compression": "sign", "consensus_step": 0.25}
    found = cells(("dpsgd", "choco"), base=options)
    said = {name: (c.config.gossip.compression, c.config.gossip.consensus_step) for name, c in found.items()}
    assert said["gossip-ring-4-choco"] == ("sign", 0.25)
    assert said["gossip-ring-4-dpsgd"] == ("top-k:0.1", None)
    averaged = cells(("dpsgd", "quasi-global"), base={"average_momentum": True}, local=True)
    said = {name: cell.config.gossip.average_momentum for name, cell in averaged.items()}
    assert [name for name, value in said.items() if value] == ["gossip-ring-4-dpsgd", "gossip-complete-4-dpsgd"]
    with pytest.raises(ConfigError, match=r"--compression sign: means nothing with dpsgd, only with choco"):
        cells(("dpsgd", "median"), base={"compression": "sign", "byzantine": 1})
