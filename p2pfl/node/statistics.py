"""Rule for the running statistics of a peer, from the settings of its run."""

from __future__ import annotations

from p2pfl.config import RunConfig, is_robust
from p2pfl.modes import Roles
from p2pfl.protocol.statistics import StatisticsRule
from p2pfl.training import Trainer, statistics_of_run


def statistics_rule(config: RunConfig, roles: Roles, trainer: Trainer) -> StatisticsRule:
    """Rule for running statistics that --batch-norm-statistics makes."""
    running = statistics_of_run(config, trainer.model, trainer.layout)
    exchanges, mixed = config.training.rounds * config.gossip.gossip_steps, roles.consensus_rounds
    last_merge = exchanges + mixed - mixed // roles.merges + 1, exchanges + mixed
    if roles.merges > 1:
        return StatisticsRule(running, estimated_in=last_merge[0], pooled=last_merge)
    # A robust rule takes no means, without which the variance of all samples does not follow from moments.
    pools = mixed > 0 and not is_robust(config)
    return StatisticsRule(running, kept_until=exchanges, pooled=last_merge if pools else (0, 0))
