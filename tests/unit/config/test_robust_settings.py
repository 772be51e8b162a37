"""--byzantine: where it is required, its limits, and the cost of robust averages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.support.paths import ROOT
from tests.support.plans import plan_runs

from p2pfl.algorithms.blockwise import SIDE_BLOCK
from p2pfl.cli import main
from p2pfl.config import RunConfig, check_together, is_robust, least_updates, load_toml, to_toml
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import CompareOptions
from p2pfl.modes import assign_roles, topology_of
from p2pfl.preflight.estimate import estimate
from p2pfl.topology import consensus_rounds, make_topology, mixing_matrix, mixing_rounds


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        (
            "gossip",
            {"algorithm": "clipped"},
            "--algorithm clipped: say how many malicious peers it has to tolerate: --byz",
        ),
        ("gossip", {"algorithm": "median"}, "--algorithm median: say how many"),
        ("gossip", {"byzantine": 1}, "--byzantine 1: means nothing with --algorithm dpsgd, which tolerates none"),
        (
            "centralized",
            {"averaging": "krum"},
            "--averaging krum: say how many malicious peers it has to tolerate: --byzan",
        ),
        ("centralized", {"byzantine": 0}, "--byzantine 0: means nothing with --averaging uniform"),
        ("centralized", {"byzantine": 2, "averaging": "samples"}, "--byzantine 2: means nothing with --averaging sam"),
        (
            "centralized",
            {"byzantine": 2, "averaging": "krum"},
            "--byzantine 2: krum then needs 7 updates a round, and --num-selected is 6",
        ),
        (
            "centralized",
            {"byzantine": 3, "averaging": "trimmed-mean"},
            "--byzantine 3: trimmed-mean then needs 7 updates a round, and --num-selected is 6",
        ),
        (
            "centralized",
            {"byzantine": 2, "averaging": "median", "min_updates": 4},
            "--min-updates 4: median needs 5 with --byzantine 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(mode: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(RunConfig.of(mode=mode, **options))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--byzantine -1: must be 0 or more$"):
        RunConfig.of(byzantine=-1)


@pytest.mark.parametrize(
    ("kind", "n", "byzantine", "message"),
    [
        ("ring", 6, 2, "--byzantine 2: peer 0 has 2 neighbors and tolerates at most 1 malicious ones; "),
        ("star", 5, 1, "--byzantine 1: peer 1 has 1 neighbors and tolerates at most 0 malicious ones; "),
        ("complete", 8, 4, "--byzantine 4: peer 0 has 7 neighbors and tolerates at most 3 malicious ones; "),
    ],
)
def test_too_many_for_some_peer_is_refused_with_its_name(kind: str, n: int, byzantine: int, message: str) -> None:
    topology = make_topology(kind, n)
    for algorithm in ("clipped", "trimmed-mean", "median"):
        with pytest.raises(ConfigError) as caught:
            assign_roles(RunConfig.of(algorithm=algorithm, byzantine=byzantine), topology)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    assign_roles(RunConfig.of(algorithm="median", byzantine=int(message.split("at most ")[1][0])), topology)


def test_the_consensus_phase_takes_as_long_as_plain_mixing() -> None:
    ring = make_topology("ring", 8)
    w = mixing_matrix(ring)
    assert assign_roles(RunConfig(), ring).consensus_rounds == consensus_rounds(w, 1e-3)
    robust = assign_roles(RunConfig.of(algorithm="median", byzantine=1), ring)
    assert robust.consensus_rounds == mixing_rounds(w, 1e-3) > 2 * consensus_rounds(w, 1e-3)


def test_the_command_line_says_so_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    ring = str(ROOT / "topologies" / "ring-8.graphml")
    for words, message in (
        (["--algorithm", "clipped"], "--algorithm clipped: say how many"),
        (["--algorithm", "median", "--byzantine", "2"], "--byzantine 2: peer 0 has 2 neighbors"),
        (["--byzantine", "1"], "--byzantine 1: means nothing"),
    ):
        for dry in ([], ["--dry-run"]):
            assert main(["gossip", ring, "--dataset", "digits", *words, *dry]) == 2
            captured = capsys.readouterr()
            (line,) = captured.err.splitlines()
            assert message in line
    command = ["gossip", ring, "--dataset", "digits", "--width", "0.125", "--algorithm", "median", "--byzantine", "1"]
    assert main([*command, "--dry-run"]) == 0
    assert main(["centralized", "--averaging", "krum", "--byzantine", "1", *command[2:6], "--dry-run"]) == 0


def test_it_is_kept_in_the_settings_of_both_modes(tmp_path: Path) -> None:
    for mode, option in (("gossip", {"algorithm": "median"}), ("centralized", {"averaging": "krum"})):
        config = RunConfig.of(mode=mode, byzantine=1, **option)  # type: ignore[arg-type]
        (tmp_path / "some.toml").write_text(to_toml(config))
        assert load_toml(tmp_path / "some.toml") == config
        assert is_robust(config)
    for mode in ("gossip", "centralized", "sgd", "local"):
        assert not is_robust(RunConfig.of(mode=mode))  # type: ignore[arg-type]


def test_a_robust_coordinator_asks_for_as_many_updates_as_it_needs() -> None:
    def least(**options: object) -> int:
        return least_updates(RunConfig.of(mode="centralized", num_selected=9, **options))

    assert least() == 5
    assert least(averaging="trimmed-mean", byzantine=1) == 5
    assert least(averaging="trimmed-mean", byzantine=3) == 7
    assert least(averaging="krum", byzantine=3) == 9
    assert least(averaging="krum", byzantine=1, min_updates=6) == 6
    assert least(min_updates=2) == 2


def needed(kind: str, n: int, **options: object) -> tuple[int, int, int]:
    """Bytes of the exchange, of one float32 vector, of one on the wire."""
    config = RunConfig.of(dataset="digits", width=0.125, **options)
    found = estimate(assign_roles(config, make_topology(kind, n)), config)
    return found.exchange_memory, found.weights_memory // 3, found.vector_bytes


@pytest.mark.parametrize("algorithm", ["clipped", "trimmed-mean", "median"])
def test_memory_grows_with_the_degree_over_sockets(algorithm: str) -> None:
    for n, wire_dtype in ((5, "fp32"), (9, "fp32"), (9, "bf16")):
        options = {"algorithm": algorithm, "byzantine": 1, "wire_dtype": wire_dtype, "transport": "ipc"}
        exchange, whole, coded = needed("complete", n, **options)
        degree = n - 1
        # What training sent last, the mix, all neighbors' vectors, and the four of the next round that may be there.
        assert exchange == coded + (1 + degree + 4) * whole + (degree + 2) * SIDE_BLOCK * 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd")
def test_memory_does_not_grow_with_the_degree_where_it_is_shared() -> None:
    """Neighbors' vectors stay where they are; blocks of all of them are side by side."""
    few, many = (needed("complete", n, algorithm="median")[0] for n in (5, 9))
    assert many - few == 4 * SIDE_BLOCK * 4


def test_a_coordinators_memory_grows_with_the_selected() -> None:
    found = {}
    for averaging in ("uniform", "krum"):
        byzantine = 1 if averaging == "krum" else None
        options = {"num_clients": 8, "num_selected": 8, "averaging": averaging, "byzantine": byzantine}
        config = RunConfig.of(mode="centralized", dataset="digits", width=0.125, **options)
        star = topology_of(config)
        assert star is not None
        need = estimate(assign_roles(config, star), config)
        found[averaging] = need.exchange_memory
        whole = need.weights_memory // 3
    assert found["uniform"] == (2 + 4) * whole
    assert found["krum"] == (2 + 8) * whole + (8 + 2) * SIDE_BLOCK * 4


def test_a_comparison_gives_it_to_the_runs_that_tolerate_malicious_peers() -> None:
    wanted = CompareOptions((make_topology("complete", 8),), num_selected=(8,), sgd=True, local=True)
    for options, with_it in (
        ({"algorithm": "median"}, {"gossip"}),
        ({"averaging": "krum"}, {"centralized"}),
        ({"algorithm": "clipped", "averaging": "median"}, {"gossip", "centralized"}),
    ):
        planned = plan_runs(RunConfig.of(dataset="digits", byzantine=2, **options), wanted)
        assert {one.config.mode for one in planned} == {"gossip", "centralized", "sgd", "local"}
        for one in planned:
            assert one.config.robust.byzantine == (2 if one.config.mode in with_it else None)
    with pytest.raises(ConfigError, match=r"^--byzantine 1: no run here has a robust --algorithm or --averaging$"):
        plan_runs(RunConfig.of(dataset="digits", byzantine=1), wanted)
    with pytest.raises(ConfigError, match=r"^--byzantine 1: no run here"):  # there is no coordinator
        plan_runs(
            RunConfig.of(dataset="digits", byzantine=1, averaging="krum"),
            CompareOptions((make_topology("complete", 8),)),
        )
