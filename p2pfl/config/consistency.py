"""Consistency of settings across sections, such as of robust averaging."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfl import registry
from p2pfl.config.compression import compression_choice
from p2pfl.config.data import DataConfig
from p2pfl.config.run import RunConfig, replace_options
from p2pfl.config.sections import GossipConfig
from p2pfl.errors import ConfigError


def check_together(config: RunConfig) -> None:
    """Check settings across sections.

    Not part of making them, since those of a file and of the command line are combined one by one. Raises ConfigError
    naming an option that does not fit the others.
    """
    check_data(config)
    _check_byzantine(config)
    _check_momentum(config)
    _check_algorithm(config)
    _check_statistics(config)
    _check_checkpoints(config)
    if config.mode != "centralized":
        return
    clients, selected = config.centralized.num_clients, config.centralized.num_selected
    if selected > clients:
        raise ConfigError(f"--num-selected {selected}: there are only {clients} clients (--num-clients)")
    least = config.server.min_updates
    if least is not None and least > selected:
        raise ConfigError(f"--min-updates {least}: only {selected} clients train in a round (--num-selected)")
    needed, averaging = _robust_needs(config), config.server.averaging
    if selected < needed:
        raise ConfigError(
            f"--byzantine {config.robust.byzantine}: {averaging} then needs {needed} updates a round, "
            f"and --num-selected is {selected}"
        )
    if least is not None and least < needed:
        raise ConfigError(
            f"--min-updates {least}: {averaging} needs {needed} with --byzantine {config.robust.byzantine}"
        )


def _check_checkpoints(config: RunConfig) -> None:
    """Raise ConfigError where a peer that is restarted would lose mass."""
    every, entry = config.record.checkpoint_every, gossip_entry(config)
    if every > 1 and config.record.checkpoint and config.exchange.restart and entry is not None and entry.pushes_sums:
        raise ConfigError(
            f"--checkpoint-every {every}: a peer that --restart starts again would count what it gave and got since "
            f"its checkpoint twice or not at all under --algorithm {config.gossip.algorithm}; choose 1, or --restart 0"
        )


def among_algorithms(config: RunConfig, algorithms: Sequence[str]) -> RunConfig:
    """Settings of one of several algorithms, without the options of the others."""
    entry, plain = registry.entry_of("algorithm", config.gossip.algorithm), GossipConfig()
    known = ("gossip_steps",) if entry is None else entry.options  # what one of the user's may have too
    others = {option for name in algorithms if (one := registry.entry_of("algorithm", name)) for option in one.options}
    return replace_options(config, **{option: getattr(plain, option) for option in others.difference(known)})


def averaging_rule(config: RunConfig) -> tuple[str, str] | None:
    """Option that names the averaging, and its value; None for sgd and local."""
    rules = {"gossip": ("algorithm", config.gossip.algorithm), "centralized": ("averaging", config.server.averaging)}
    return rules.get(config.mode)


def gossip_entry(config: RunConfig) -> registry.Entry | None:
    """Registry entry of the gossip algorithm, or None for one of the user's.

    None in modes without gossip, too.
    """
    return registry.entry_of("algorithm", config.gossip.algorithm) if config.mode == "gossip" else None


def is_robust(config: RunConfig) -> bool:
    """Return whether the run averages robustly, so that --byzantine applies.

    An algorithm of the user's is taken as robust if --byzantine is set.
    """
    rule = averaging_rule(config)
    if rule is None:
        return False
    entry = registry.entry_of(*rule)
    return config.robust.byzantine is not None if entry is None else entry.tolerates_byzantine


def least_updates(config: RunConfig) -> int:
    """Least number of updates in a round of a centralized run.

    --min-updates, or by default half of the selected clients, and what a robust average needs.
    """
    least = config.server.min_updates
    return max(-(-config.centralized.num_selected // 2), _robust_needs(config)) if least is None else least


def check_data(config: RunConfig) -> None:
    """Raise ConfigError for an option that belongs to another data set or partition."""
    plain = DataConfig()
    if not config.data.test and config.data.validation == 0:
        raise ConfigError("--no-test: nothing would be left to evaluate on; add --validation 0.1, for example")
    for option in ("dataset", "partition"):
        chosen = registry.entry_of(option, getattr(config.data, option))
        wanted: dict[str, list[str]] = {}
        for name, entry in registry.TABLES[option].items():
            for setting in entry.options:
                wanted.setdefault(setting, []).append(name + (f":{entry.argument}" if entry.argument else ""))
        for setting, names in wanted.items():
            value = getattr(config.data, setting)
            if value != getattr(plain, setting) and setting not in (() if chosen is None else chosen.options):
                given = f"--{setting.replace('_', '-')} {value}"
                chosen_one = f"--{option} {getattr(config.data, option)}"
                raise ConfigError(f"{given}: means nothing with {chosen_one}, only with {' or '.join(names)}")


def _check_byzantine(config: RunConfig) -> None:
    rule, byzantine = averaging_rule(config), config.robust.byzantine
    if rule is None:
        return
    option, value = rule
    if is_robust(config) and byzantine is None:
        raise ConfigError(
            f"--{option} {value}: say how many malicious peers it has to tolerate: --byzantine 1, for example"
        )
    if not is_robust(config) and byzantine is not None:
        raise ConfigError(f"--byzantine {byzantine}: means nothing with --{option} {value}, which tolerates none")


def _check_algorithm(config: RunConfig) -> None:
    entry = registry.entry_of("algorithm", config.gossip.algorithm)
    if config.mode != "gossip":
        return
    _check_gossip_steps(config, entry)
    _check_negative_weights(config, entry)
    _check_final_merge(config, entry)
    if entry is None:
        return
    _check_mixing(config, entry)
    name, order = config.gossip.algorithm, config.gossip.order
    if order not in entry.orders:
        raise ConfigError(f"--order {order}: {name} has only --order {' or '.join(entry.orders)}")
    plain = GossipConfig()
    for option in ("compression", "consensus_step"):
        if option not in entry.options and (value := getattr(config.gossip, option)) != getattr(plain, option):
            raise ConfigError(f"--{option.replace('_', '-')} {value}: means nothing with {name}, only with choco")
    if (dtype := config.exchange.wire_dtype) not in entry.wire_dtypes:
        raise ConfigError(
            f"--wire-dtype {dtype}: the rounded sums of {name} would not keep the mean of the peers; "
            f"use {' or '.join(entry.wire_dtypes)}"
        )
    if "compression" in entry.options:
        _check_compressed_numbers(config.gossip.compression, dtype)
    if (optimizer := config.training.optimizer) not in entry.optimizers:
        raise ConfigError(
            f"--optimizer {optimizer}: the rule of {name} holds for steps of SGD only; "
            f"use --optimizer {' or '.join(entry.optimizers)} or another --algorithm, such as dpsgd"
        )
    if entry.needs_equal_rates and config.training.round_length == "epochs":
        raise ConfigError(
            f"--round-length epochs: {name} mixes by the mean learning rate of a peer's round, and with rounds of "
            "unequal lengths the mean of the peers would drift; use --round-length steps"
        )
    if entry.needs_momentum and config.training.momentum == 0:
        raise ConfigError(f"--momentum 0: {name} is a kind of momentum; choose one above 0 or --algorithm dpsgd")
    if entry.needs_momentum and config.training.reset_momentum:
        raise ConfigError(f"--reset-momentum: {name} sets the momentum of every round; leave it out")


def _check_momentum(config: RunConfig) -> None:
    """Raise ConfigError where momentum cannot be averaged."""
    if config.mode != "gossip" or not config.gossip.average_momentum:
        return
    name, training = config.gossip.algorithm, config.training
    entry = registry.entry_of("algorithm", name)
    refusals = (
        (entry is not None and entry.needs_momentum, f"{name} sets the momentum of every round; leave it out"),
        (
            entry is None or "average_momentum" not in entry.options,
            f"{name} mixes models only; use --algorithm dpsgd, or leave it out",
        ),
        (config.gossip.order != "atc", "momentum is sent after training; use --order atc, or leave it out"),
        (
            training.optimizer != "sgd",
            "AdamW divides it by a second moment that stays local; use --optimizer sgd, or leave it out",
        ),
        (training.momentum == 0, "there is none with --momentum 0; choose one above 0, or leave it out"),
        (training.reset_momentum, "--reset-momentum is set too; choose one"),
    )
    for applies, reason in refusals:
        if applies:
            raise ConfigError(f"--average-momentum: {reason}")


def _check_statistics(config: RunConfig) -> None:
    statistics, name = config.gossip.batch_norm_statistics, config.gossip.algorithm
    if config.mode == "gossip" and statistics == "reestimated" and config.gossip.final_merge == "none":
        raise ConfigError(
            "--final-merge none: --batch-norm-statistics reestimated measures those of the merged weights; use "
            "--final-merge auto, or averaged or local statistics"
        )
    if config.mode == "gossip" and statistics == "reestimated" and is_robust(config):
        raise ConfigError(
            "--batch-norm-statistics reestimated: the variance of all samples follows from means over the peers, and "
            f"{name} takes none; use averaged or local"
        )


def _check_gossip_steps(config: RunConfig, entry: registry.Entry | None) -> None:
    """Raise ConfigError for several exchanges where one is part of the method.

    An algorithm of the user's is taken to allow them.
    """
    steps, name = config.gossip.gossip_steps, config.gossip.algorithm
    if steps == 1:
        return
    if config.gossip.order == "overlapped":
        raise ConfigError(
            f"--gossip-steps {steps}: in --order overlapped the one exchange of a round runs beside the training; use "
            "--order atc"
        )
    if entry is not None and "gossip_steps" not in entry.options:
        able = [known for known, one in registry.ALGORITHMS.items() if "gossip_steps" in one.options]
        raise ConfigError(
            f"--gossip-steps {steps}: the rule of {name} holds for one exchange after each training; leave it out, or "
            f"use --algorithm {', '.join(able[:-1])} or {able[-1]}"
        )


def _check_compressed_numbers(compression: str, dtype: str) -> None:
    kind = compression_choice(compression).kind
    if dtype not in registry.COMPRESSIONS[kind].wire_dtypes:
        able = [f"{name}:F" for name, one in registry.COMPRESSIONS.items() if dtype in one.wire_dtypes]
        raise ConfigError(
            f"--wire-dtype {dtype}: --compression {kind} sends less of each value already; leave it out, or use "
            f"--compression {' or '.join(able)}"
        )


def _check_mixing(config: RunConfig, entry: registry.Entry) -> None:
    name, mixing = config.gossip.algorithm, config.gossip.mixing
    weights = registry.MIXINGS[mixing]
    if entry.uses_tree and mixing not in (GossipConfig().mixing, "auto"):
        raise ConfigError(f"--mixing {mixing}: {name} counts all peers alike, along a tree; leave it out")
    if entry.least_eigenvalue is not None and weights.weighs_by_samples:
        raise ConfigError(f"--mixing {mixing}: {name} needs a symmetric mixing matrix; leave it out")
    if entry.pushes_sums and weights.weighs_by_samples:
        raise ConfigError(f"--mixing {mixing}: {name} counts all peers alike; use --mixing column-stochastic")
    if not (weights.keeps_mean or entry.pushes_sums):
        raise ConfigError(
            f"--mixing {mixing}: with {name} the mean of the peers would drift; use --algorithm push-sum, or another "
            "--mixing"
        )


def _check_negative_weights(config: RunConfig, entry: registry.Entry | None) -> None:
    """Raise ConfigError where negative self-weights, of a mixing by round, do not fit."""
    name, mixing, dtype = config.gossip.algorithm, config.gossip.mixing, config.exchange.wire_dtype
    if not registry.MIXINGS[mixing].by_round:
        return
    needs = "weights that are not negative"
    if entry is not None and entry.fixed_mixing:
        needs = "the same mixing matrix in every round"
    if is_robust(config) or not (entry is None or entry.takes_negative_weights):
        raise ConfigError(
            f"--mixing {mixing}: {name} needs {needs}; use --algorithm dpsgd, or another --mixing (for the final merge "
            "alone there is --final-merge exact)"
        )
    if dtype != "fp32":
        raise ConfigError(f"--wire-dtype {dtype}: --mixing {mixing} would enlarge what rounding loses; use fp32")


def _check_final_merge(config: RunConfig, entry: registry.Entry | None) -> None:
    """Raise ConfigError for a final merge that the algorithm does not have."""
    chosen, name, tolerance = config.gossip.final_merge, config.gossip.algorithm, config.gossip.consensus_tolerance
    if chosen in ("exact", "none") and tolerance != GossipConfig().consensus_tolerance:
        raise ConfigError(f"--consensus-tolerance {tolerance:g}: means nothing with --final-merge {chosen}; omit it")
    if chosen == "none" and entry is not None and entry.needs_final_merge:
        raise ConfigError(f"--final-merge none: a consensus phase is part of {name}; use auto")
    if chosen in ("auto", "none"):
        return
    if is_robust(config):
        raise ConfigError(
            f"--final-merge {chosen}: {name} merges by its robust rule, since one malicious peer could lead the others "
            "anywhere by another; use auto or none"
        )
    if entry is not None and entry.pushes_sums:
        raise ConfigError(f"--final-merge {chosen}: {name} merges by push-sum; use auto or none")
    if entry is not None and entry.uses_tree and chosen != "exact":
        raise ConfigError(f"--final-merge {chosen}: {name} merges by its relayed sums, exactly; use auto or none")
    if chosen == "exact" and registry.MIXINGS[config.gossip.mixing].weighs_by_samples:
        raise ConfigError(
            f"--final-merge exact: needs symmetric weights, and --mixing {config.gossip.mixing} has others; use auto"
        )


def _robust_needs(config: RunConfig) -> int:
    """Least number of updates that a robust average needs; 0 for others."""
    entry = registry.entry_of("averaging", config.server.averaging)
    if entry is None or not entry.tolerates_byzantine:
        return 0
    return 2 * (config.robust.byzantine or 0) + entry.margin
