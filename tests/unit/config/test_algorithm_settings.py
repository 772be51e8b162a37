"""Settings that an algorithm needs or has not, and the mixing matrix that it gets."""

from __future__ import annotations

import numpy as np
import pytest

from p2pfl.config import Mode, RunConfig, among_algorithms, check_together
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.mixing import mixing_note
from p2pfl.modes import assign_roles
from p2pfl.registry import ALGORITHMS
from p2pfl.run.settings import resolve
from p2pfl.topology import make_topology, mixing_matrix, smallest_eigenvalue


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "quasi-global", "order": "overlapped"}, "--order overlapped: quasi-global has only --order atc"),
        ({"algorithm": "quasi-global", "momentum": 0.0}, "--momentum 0: quasi-global is a kind of momentum"),
        ({"algorithm": "quasi-global", "reset_momentum": True}, "--reset-momentum: quasi-global sets the momentum"),
        ({"algorithm": "relay-sum", "wire_dtype": "bf16"}, "--wire-dtype bf16: the rounded sums of relay-sum"),
        ({"algorithm": "relay-sum", "mixing": "samples"}, "--mixing samples: relay-sum counts all peers alike"),
        ({"algorithm": "relay-sum", "mixing": "weights"}, "--mixing weights: relay-sum counts all peers alike"),
        ({"algorithm": "exact-diffusion", "mixing": "samples"}, "--mixing samples: exact-diffusion needs a symmetric"),
        ({"algorithm": "exact-diffusion", "order": "overlapped"}, "--order overlapped: exact-diffusion has only"),
        ({"algorithm": "gradient-tracking", "order": "overlapped"}, "--order overlapped: gradient-tracking has only"),
        *(
            ({"algorithm": name, "optimizer": "adamw"}, f"--optimizer adamw: the rule of {name} holds for steps of SGD")
            for name in ("quasi-global", "exact-diffusion")
        ),
        *(
            ({"average_momentum": True, **options}, f"--average-momentum: {reason}")
            for options, reason in (
                ({"algorithm": "quasi-global"}, "quasi-global sets the momentum of every round; leave it out"),
                ({"algorithm": "push-sum"}, "push-sum mixes models only; use --algorithm dpsgd, or leave it out"),
                ({"algorithm": "my_code:Mine"}, "my_code:Mine mixes models only; use --algorithm dpsgd"),
                ({"order": "overlapped"}, "momentum is sent after training; use --order atc"),
                ({"optimizer": "adamw"}, "AdamW divides it by a second moment that stays local; use --optimizer sgd"),
                ({"momentum": 0.0}, "there is none with --momentum 0; choose one above 0"),
                ({"reset_momentum": True}, "--reset-momentum is set too; choose one"),
            )
        ),
        (
            {"algorithm": "median", "byzantine": 1, "batch_norm_statistics": "reestimated"},
            "--batch-norm-statistics reestimated: the variance of all samples follows from means over the peers",
        ),
        (
            {"final_merge": "none", "batch_norm_statistics": "reestimated"},
            "--final-merge none: --batch-norm-statistics reestimated measures those of the merged weights",
        ),
        ({"gossip_steps": 3, "order": "overlapped"}, "--gossip-steps 3: in --order overlapped the one exchange"),
        ({"algorithm": "toy:Own", "gossip_steps": 3, "order": "overlapped"}, "--gossip-steps 3: in --order overlapped"),
        (
            {"algorithm": "exact-diffusion", "gossip_steps": 3},
            "--gossip-steps 3: the rule of exact-diffusion holds for one exchange after each training; leave it out, "
            "or use --algorithm dpsgd, clipped, trimmed-mean or median",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(RunConfig.of(**options))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("steps", [0, -1, 65])
def test_exchanges_after_a_training_are_a_small_number(steps: int) -> None:
    with pytest.raises(ConfigError, match=r"^--gossip-steps "):
        RunConfig.of(gossip_steps=steps)


@pytest.mark.parametrize("name", ["dpsgd", "clipped", "trimmed-mean", "median", "toy:Own"])
def test_averaging_again_suits_plain_and_robust_averages_and_the_users_own(name: str) -> None:
    robust = {"byzantine": 1} if name in ("clipped", "trimmed-mean", "median") else {}
    check_together(RunConfig.of(algorithm=name, gossip_steps=3, **robust))
    grid = among_algorithms(RunConfig.of(algorithm=name, gossip_steps=3, **robust), [name, "choco", "dpsgd"])
    assert grid.gossip.gossip_steps == 3
    assert among_algorithms(RunConfig.of(algorithm="choco", gossip_steps=3), [name, "choco"]).gossip.gossip_steps == (
        3 if name == "toy:Own" else 1
    )


def test_adaptive_consensus_needs_rounds_of_equal_lengths() -> None:
    """One step and forty have other mean rates, and other shares γ of the way."""
    with pytest.raises(ConfigError, match=r"^--round-length epochs: adaptive-consensus .*would drift; use .* steps$"):
        check_together(RunConfig.of(algorithm="adaptive-consensus", round_length="epochs"))


def test_adaptive_consensus_has_both_orders_and_needs_no_momentum() -> None:
    for order in ("atc", "overlapped"):
        check_together(RunConfig.of(algorithm="adaptive-consensus", order=order, momentum=0.0))


@pytest.mark.parametrize("name", sorted(ALGORITHMS.keys() - {"quasi-global", "exact-diffusion"}))
def test_all_others_take_the_steps_of_adamw(name: str) -> None:
    byzantine = {"byzantine": 1} if ALGORITHMS[name].tolerates_byzantine else {}
    check_together(RunConfig.of(algorithm=name, optimizer="adamw", **byzantine))


@pytest.mark.parametrize("mode", ["centralized", "local", "sgd"])
def test_momentum_is_averaged_by_gossip_alone(mode: Mode) -> None:
    config = RunConfig.of(mode=mode, average_momentum=True)
    with pytest.raises(ConfigError, match=f"--average-momentum True: means nothing in a {mode} run; leave it out"):
        resolve(config, make_topology("ring", 3), 1)


def test_relay_sum_takes_part_in_comparisons_of_unlike_graphs() -> None:
    """The tree's weights are those of its edges, whatever the file says."""
    config = RunConfig.of(algorithm="relay-sum", mixing="auto")
    check_together(config)
    roles = assign_roles(config, make_topology("chain", 4))
    np.testing.assert_array_equal(roles.matrix, mixing_matrix(make_topology("chain", 4)))


@pytest.mark.parametrize(("n", "is_lazy"), [(8, True), (7, False)])
def test_exact_diffusion_mixes_lazily_where_an_eigenvalue_is_too_small(n: int, is_lazy: bool) -> None:
    """Even rings with Metropolis weights stand exactly at −1/3."""
    topology = make_topology("ring", n)
    plain = mixing_matrix(topology)
    assert (smallest_eigenvalue(plain) < -1 / 3 + 1e-9) == is_lazy
    config = RunConfig.of(algorithm="exact-diffusion")
    expected = (np.eye(n) + plain) / 2 if is_lazy else plain
    np.testing.assert_array_equal(assign_roles(config, topology).matrix, expected)
    note = mixing_note(config, topology)
    assert (note is not None) == is_lazy
    if note is not None:
        assert note.startswith("mixes with (I + W) / 2: the smallest eigenvalue of W is -0.3333")
        assert note.endswith("exact-diffusion needs one above -1/3"), "and not above -0.3333, which it seems to be"
    assert mixing_note(RunConfig.of(), topology) is None


def test_exact_diffusion_refuses_a_matrix_that_is_not_symmetric() -> None:
    config = RunConfig.of(algorithm="exact-diffusion", mixing="uniform")
    with pytest.raises(TopologyError, match=r"exact-diffusion needs a symmetric mixing matrix, and --mixing uniform"):
        assign_roles(config, make_topology("exponential", 6))
