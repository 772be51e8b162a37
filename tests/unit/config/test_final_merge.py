"""Final merge and finite-time weights: rules, refusals, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from p2pfl.algorithms import DPSGD, build_algorithm
from p2pfl.cli.describe import describe_run
from p2pfl.config import RunConfig, check_together, load_toml, to_toml
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.modes import assign_roles, has_final_model
from p2pfl.preflight.mixing import mixing_notes
from p2pfl.registry import ALGORITHMS
from p2pfl.run.fingerprint import resume_fingerprint
from p2pfl.topology import (
    Topology,
    build_schedule,
    build_topology,
    consensus_rounds,
    make_topology,
    mixing_matrix,
    mixing_rounds,
)

RING, STAR = make_topology("ring", 8), make_topology("star", 5)
DIRECTED, BASE_2 = make_topology("exponential", 8), make_topology("base-k", 5)
FINITE: dict[str, Any] = {"mixing": "finite-time"}


class Merging(DPSGD):
    """An algorithm that merges by itself."""

    def merge(self) -> DPSGD:
        return self


@pytest.mark.parametrize(
    ("topology", "options", "rule", "rounds"),
    [
        (RING, {}, "chebyshev", consensus_rounds(mixing_matrix(RING), 1e-3)),
        (RING, {"final_merge": "plain"}, "plain", mixing_rounds(mixing_matrix(RING), 1e-3)),
        (RING, {"final_merge": "exact"}, "exact", 4),
        (RING, {"final_merge": "none"}, "none", 0),
        (RING, FINITE, "exact", 4),
        (RING, {**FINITE, "final_merge": "chebyshev"}, "chebyshev", consensus_rounds(mixing_matrix(RING), 1e-3)),
        (RING, {**FINITE, "final_merge": "plain"}, "plain", mixing_rounds(mixing_matrix(RING), 1e-3)),
        (STAR, {"algorithm": "exact-diffusion", "final_merge": "exact"}, "exact", 2),
        (STAR, {"algorithm": "relay-sum"}, "exact", 2),
        (STAR, {"algorithm": "relay-sum", "final_merge": "exact"}, "exact", 2),
        (STAR, {"algorithm": "choco", "final_merge": "exact"}, "exact", 2),
        (RING, {"algorithm": "median", "byzantine": 0}, "robust", mixing_rounds(mixing_matrix(RING), 1e-3)),
        (RING, {"algorithm": "median", "byzantine": 0, "final_merge": "none"}, "none", 0),
        (DIRECTED, {"mixing": "uniform"}, "plain", mixing_rounds(mixing_matrix(DIRECTED, "uniform"), 1e-3)),
        (BASE_2, {"mixing": "weights"}, "exact", 5),
        (BASE_2, {"mixing": "weights", "final_merge": "exact"}, "exact", 5),
        (BASE_2, {"mixing": "weights", "final_merge": "none"}, "none", 0),
    ],
)
def test_rules_and_their_rounds(topology: Topology, options: dict[str, Any], rule: str, rounds: int) -> None:
    config = RunConfig.of(**options)
    check_together(config)
    roles = assign_roles(config, topology)
    assert roles.merge is not None
    assert (roles.merge.rule, roles.consensus_rounds) == (rule, rounds)
    assert (roles.model_owner is None, has_final_model(config)) == (rule == "none", rule != "none")
    assert roles.most_ahead == 1 or topology.is_schedule, "as far apart as without a period"


def test_an_exact_merge_takes_the_matrix_that_the_algorithm_has() -> None:
    """Exact diffusion mixes by (I + W) / 2 on an even ring."""
    roles = assign_roles(RunConfig.of(algorithm="exact-diffusion", final_merge="exact"), RING)
    assert roles.merge is not None
    np.testing.assert_allclose(np.linalg.multi_dot(roles.merge.mixing.matrices), 1 / 8, atol=1e-12)
    np.testing.assert_array_equal(roles.merge.mixing.w, (np.eye(8) + mixing_matrix(RING)) / 2)


@pytest.mark.parametrize(("rule", "rounds"), [("chebyshev", 12), ("plain", 32)])
def test_a_merge_mixes_by_w_itself_where_training_needs_a_slower_matrix(rule: str, rounds: int) -> None:
    """Exact diffusion's (I + W) / 2 would take 17 and 68 rounds on a ring of eight."""
    roles = assign_roles(RunConfig.of(algorithm="exact-diffusion", final_merge=rule), RING)
    assert roles.merge is not None
    np.testing.assert_array_equal(roles.matrix, (np.eye(8) + mixing_matrix(RING)) / 2)
    np.testing.assert_array_equal(roles.merge.mixing.w, mixing_matrix(RING))
    assert roles.merge.rounds == rounds


def test_weights_that_never_bring_the_peers_together_are_refused_by_the_files_name() -> None:
    swap = nx.Graph()
    swap.add_edge(0, 1, weight=1.0)
    for topology in (build_topology(swap, name="s", source="s.csv"), build_schedule([swap], name="s", source="s.csv")):
        with pytest.raises(TopologyError, match=r"^s\.csv: .* never brings? the peers together"):
            assign_roles(RunConfig.of(mixing="weights"), topology)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"final_merge": "exact", "consensus_tolerance": 0.1},
            "--consensus-tolerance 0.1: means nothing with --final-",
        ),
        ({"final_merge": "none", "consensus_tolerance": 0.1}, "--consensus-tolerance 0.1: means nothing with --final-"),
        (
            {"final_merge": "none", "algorithm": "adaptive-consensus"},
            "--final-merge none: a consensus phase is part of",
        ),
        ({"final_merge": "plain", "algorithm": "median", "byzantine": 1}, "--final-merge plain: median merges by its"),
        ({"final_merge": "exact", "algorithm": "my:Own", "byzantine": 1}, "--final-merge exact: my:Own merges by its"),
        (
            {"final_merge": "exact", "algorithm": "push-sum", "mixing": "column-stochastic"},
            "--final-merge exact: push-sum merges by push-sum; use auto or none",
        ),
        (
            {"final_merge": "chebyshev", "algorithm": "relay-sum"},
            "--final-merge chebyshev: relay-sum merges by its rel",
        ),
        (
            {"final_merge": "exact", "mixing": "samples"},
            "--final-merge exact: needs symmetric weights, and --mixing sa",
        ),
        ({**FINITE, "wire_dtype": "bf16"}, "--wire-dtype bf16: --mixing finite-time would enlarge what rounding loses"),
        ({**FINITE, "wire_dtype": "bf16", "algorithm": "my:Own"}, "--wire-dtype bf16: --mixing finite-time would enl"),
        ({**FINITE, "algorithm": "my:Own", "byzantine": 1}, "--mixing finite-time: my:Own needs weights that are not"),
        ({"final_merge": "fast"}, "--final-merge 'fast': "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(RunConfig.of(**options))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "dpsgd"])
def test_finite_time_weights_are_for_dpsgd_and_own_algorithms(name: str) -> None:
    robust = {"byzantine": 1} if ALGORITHMS[name].tolerates_byzantine else {}
    needs = "the same mixing matrix in every" if ALGORITHMS[name].fixed_mixing else "weights that are not negative"
    with pytest.raises(ConfigError, match=f"--mixing finite-time: {name} needs {needs}"):
        check_together(RunConfig.of(algorithm=name, **FINITE, **robust))
    for own in ("dpsgd", "my:Own"):
        check_together(RunConfig.of(algorithm=own, order="overlapped", **FINITE))


@pytest.mark.parametrize(
    ("topology", "options", "message"),
    [
        (
            DIRECTED,
            {"mixing": "uniform", "final_merge": "exact"},
            "final-merge exact: finite-time averaging needs an und",
        ),
        (
            DIRECTED,
            {"mixing": "uniform", "final_merge": "chebyshev"},
            "--final-merge chebyshev needs an undirected graph",
        ),
        (BASE_2, {"mixing": "weights", "final_merge": "chebyshev"}, "needs the same mixing matrix in every round"),
        (
            make_topology("random-matching", 6, period=4),
            {"final_merge": "exact"},
            "its 4 graphs do not average exactly within a period with --mixing metropolis-hastings",
        ),
        (make_topology("ring", 200), {"final_merge": "exact"}, "too much for float32; .* or use --final-merge auto"),
        (BASE_2, FINITE, "finite-time weights are those of one graph"),
    ],
)
def test_what_the_graph_does_not_have_is_refused(topology: Topology, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        assign_roles(RunConfig.of(**options), topology)


def test_an_own_algorithm_that_merges_by_itself_is_not_overruled() -> None:
    for chosen in ("auto", "none"):
        build_algorithm(RunConfig.of(algorithm=f"{__name__}:Merging", final_merge=chosen))
    with pytest.raises(ConfigError, match=r"--final-merge exact: .*:Merging names its own \(`merge`\)"):
        build_algorithm(RunConfig.of(algorithm=f"{__name__}:Merging", final_merge="exact"))


def test_a_resumed_run_has_the_same_final_merge(tmp_path: Path) -> None:
    configs = [RunConfig.of(final_merge=chosen) for chosen in ("auto", "exact", "none", "plain")]
    assert len({resume_fingerprint(assign_roles(config, RING), config) for config in configs}) == 4
    (tmp_path / "run.toml").write_text(to_toml(configs[1]))
    assert load_toml(tmp_path / "run.toml") == configs[1]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            FINITE,
            [
                "ring-8: 8 peers, finite-time averaging, exact average after 4 rounds",
                "; the exact mean, by finite-time averaging",
                "note:        --mixing finite-time: what training adds to disagreements grows up to 5.83 times",
            ],
        ),
        ({"final_merge": "none"}, ["consensus:   none (--final-merge none): each peer ends with its own model"]),
        (
            {"mixing": "auto"},
            ["; by Chebyshev's recurrence", "note:        --mixing auto takes metropolis-hastings weigh"],
        ),
    ],
)
def test_a_dry_run_says_what_is_chosen(options: dict[str, Any], lines: list[str]) -> None:
    text = describe_run(RING, RunConfig.of(dataset="digits", width=0.0625, **options))
    assert [line for line in lines if line not in text] == []


def test_what_auto_stands_for() -> None:
    weighted = build_topology(DIRECTED.graph, name="t", source="t")
    auto = RunConfig.of(mixing="auto")
    assert mixing_notes(auto, weighted) == ("--mixing auto takes uniform weights",)
    assert mixing_notes(auto, BASE_2) == ("--mixing auto takes the file's weights",)
    assert mixing_notes(RunConfig.of(mixing="auto", algorithm="relay-sum"), STAR) == (
        "weights travel along a spanning tree of 4 of 4 edges and diameter 2",
    )
    assert mixing_notes(RunConfig.of(mode="local"), RING) == ()


def test_rounds_that_end_amid_a_period_are_noted() -> None:
    def noted(topology: Topology, **options: Any) -> bool:
        return any(note.startswith("--gossip-steps") for note in mixing_notes(RunConfig.of(**options), topology))

    finite = {"mixing": "finite-time"}
    assert [noted(RING, gossip_steps=steps, **finite) for steps in (1, 3, 4, 6, 8)] == [False, True, False, True, False]
    assert noted(BASE_2, gossip_steps=2, mixing="weights")
    assert not noted(BASE_2, gossip_steps=5, mixing="weights")
    assert not noted(RING, gossip_steps=3)
