"""Gossip algorithms behind one contract, server averaging and attacks.

No I/O and no clock. The contract is `base.Algorithm`.
"""

from __future__ import annotations

from typing import Any

from p2pfl import registry
from p2pfl.algorithms.averaged_momentum import AveragedMomentum
from p2pfl.algorithms.base import Algorithm, AlgorithmOptions
from p2pfl.algorithms.chebyshev import Chebyshev
from p2pfl.algorithms.dpsgd import DPSGD
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, P2PFLError, one_line
from p2pfl.payload import FP32, LocalTraining

__all__ = ["DPSGD", "Algorithm", "Chebyshev", "build_algorithm", "build_consensus", "local_training_of"]


def build_algorithm(config: RunConfig, peers: int = 1, buffers: tuple[slice, ...] = ()) -> Algorithm[Any]:
    """The algorithm of the training rounds, from the run's settings.

    `peers`: their number. `buffers`: places of the model's floating-point buffers in its flat vector.

    Raises ConfigError for a user's that is none, that has no final merge for the run's mixing, or has another one, or
    another order, number format or robustness, than the settings.
    """
    options = AlgorithmOptions(
        overlapped=config.gossip.order == "overlapped",
        wire_dtype=config.exchange.wire_dtype,
        byzantine=config.robust.byzantine or 0,
        momentum=config.training.momentum,
        max_lr=config.training.lr,
        peak_round=(config.training.peak_round - 1) * config.gossip.gossip_steps + 1,
        peers=peers,
        buffers=buffers,
        compression=config.gossip.compression,
        consensus_step=config.gossip.consensus_step,
        seed=config.record.seed,
    )
    if config.gossip.average_momentum:  # an option of dpsgd alone
        return AveragedMomentum.of(options)
    found = _build(config.gossip.algorithm, options)
    if not registry.MIXINGS[config.gossip.mixing].keeps_mean and found.merge() is None:
        raise ConfigError(
            f"--mixing {config.gossip.mixing}: {config.gossip.algorithm} has no final merge (`merge`), and plain "
            "mixing would not keep the mean of the peers; use another --mixing"
        )
    if registry.entry_of("algorithm", config.gossip.algorithm) is None:
        _check_own_options(config, found)
        _check_own_merge(config, found)
    return found


def _check_own_options(config: RunConfig, algorithm: Algorithm[Any]) -> None:
    """Raise ConfigError for settings that a user's algorithm does not heed.

    The run would be another than its records say.
    """
    name, dtype = config.gossip.algorithm, config.exchange.wire_dtype
    order = "overlapped" if algorithm.overlapped else "atc"
    if order != config.gossip.order:
        raise ConfigError(f"--order {config.gossip.order}: {name} exchanges as --order {order} does; use that")
    if dtype != FP32.name and all(one.name == FP32.name for one in algorithm.encodings.values()):
        raise ConfigError(f"--wire-dtype {dtype}: {name} sends {FP32.name} (`encodings`); use that")
    if config.robust.byzantine is not None and not algorithm.is_robust:
        raise ConfigError(f"--byzantine {config.robust.byzantine}: {name} is not robust (`is_robust`); leave it out")


def _check_own_merge(config: RunConfig, algorithm: Algorithm[Any]) -> None:
    """Raise ConfigError where a user's algorithm and the settings name two merges."""
    chosen, name = config.gossip.final_merge, config.gossip.algorithm
    if chosen not in ("auto", "none") and algorithm.merge() is not None:
        raise ConfigError(f"--final-merge {chosen}: {name} names its own (`merge`); use auto or none")


def build_consensus(
    config: RunConfig, contraction: float, peers: int = 1, second_round: int | None = None
) -> Algorithm[Any]:
    """Algorithm of the consensus rounds, in float32.

    That which the training rounds' names (`Algorithm.merge`), else Chebyshev's mixing with λ.

    λ = `contraction`. `peers`: their number. `second_round`: the first of a second merge, if there is one.
    """
    options = AlgorithmOptions(byzantine=config.robust.byzantine or 0, peers=peers)
    own = _build(config.gossip.algorithm, options).merge()
    first_round = config.training.rounds * config.gossip.gossip_steps + 1
    return Chebyshev(contraction, first_round, second_round) if own is None else own


def local_training_of(config: RunConfig) -> LocalTraining:
    """Request to local training from the settings --reset-momentum and --proximal-mu."""
    return LocalTraining("reset" if config.training.reset_momentum else "local", proximal=config.server.proximal_mu)


def _build(name: str, options: AlgorithmOptions) -> Algorithm[Any]:
    found = registry.load(registry.entry_of("algorithm", name) or name, "--algorithm")
    if not hasattr(found, "of"):
        raise ConfigError(f"--algorithm {name}: not a class that implements p2pfl.algorithms.base.Algorithm")
    try:
        algorithm: Algorithm[Any] = found.of(options)
    except P2PFLError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--algorithm {name}: its method of raised {one_line(error)}") from error
    return algorithm
