"""Steps of a comparison's peers in a round, before it runs."""

from __future__ import annotations

from p2pfl import data, registry
from p2pfl.config import RunConfig
from p2pfl.modes import assign_roles
from p2pfl.topology import Topology
from p2pfl.training import local_steps, split_of_run, with_common_steps


def steps_by_peer(base: RunConfig, topology: Topology) -> list[int]:
    """Steps of each peer or client in a round; `base` may have any mode with shards.

    The data set is decoded only where its labels or the partition decide about them.
    """
    batch, entry = base.training.batch_size, registry.entry_of("partition", base.data.partition)
    covers = (entry is None or entry.covers) and base.data.validation == 0
    if base.training.round_length == "steps" and covers:
        info = data.describe(base.data.dataset, base.data.data_dir, base.data.pictures)
        return [local_steps(base.training, info.train_samples // topology.n // batch)] * topology.n
    path = data.prepare(base.data.dataset, base.data.data_dir, lambda *_: None, base.data.pictures)
    split = split_of_run(base, assign_roles(base, topology), data.load(path))
    training = with_common_steps(base, split.mean_size).training
    return [local_steps(training, max(1, size // batch)) for size in split.sizes]
