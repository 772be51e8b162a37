"""Greeting of a process: its settings, topology, data and model, for comparison."""

from __future__ import annotations

from p2pfl import data, registry
from p2pfl.config import RunConfig
from p2pfl.model.vector import Layout
from p2pfl.modes import Roles
from p2pfl.protocol.greeting import Greeting, describe_data, short
from p2pfl.registry import DATASETS
from p2pfl.run.fingerprint import describe_settings, describe_topology


def greeting_of(config: RunConfig, roles: Roles, dataset: data.Dataset, layout: Layout, shards: str = "") -> Greeting:
    """Greeting of a process.

    All processes train on one data set, so its content has to be the same everywhere. Paths do not count: a data set in
    another folder is the same one if it holds the same files. `shards`: digest of the split, which a user's function
    could make otherwise in each process.
    """
    settings = describe_settings(config)
    if registry.entry_of("partition", config.data.partition) is None:
        settings["--partition"] += f" (shards {shards})"
    kind = config.data.dataset.partition(":")[0]
    kind = kind if kind in DATASETS else "an own function"
    about = f"{kind}: {len(dataset.train_images):,} training and {len(dataset.test_images):,} test images"
    return Greeting(
        settings={name: short(value) for name, value in settings.items()},
        topology={name: short(value) for name, value in describe_topology(roles).items()},
        data=describe_data(about, dataset.train_images.shape[1:], dataset.classes, dataset.content),
        model=short(f"{layout.parameter_count:,} parameters (layout {layout.digest})"),
    )
