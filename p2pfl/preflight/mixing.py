"""Notes on the mixing of a run, before it starts."""

from __future__ import annotations

from p2pfl import registry
from p2pfl.config import RunConfig
from p2pfl.mixing import mixing_note, mixing_of, pushes_sums, uses_tree
from p2pfl.modes import mode_of
from p2pfl.topology import FiniteTime, Topology, exact_by_weights, finite_time_weights, weights_text
from p2pfl.util.units import counted


def mixing_notes(config: RunConfig, topology: Topology) -> tuple[str, ...]:
    """Notes on the weights of --mixing, one sentence each; none where nothing mixes."""
    if not mode_of(config).mixes:
        return ()
    found = (
        _automatic(config, topology),
        schedule_note(config, topology) if topology.is_schedule else None,
        mixing_note(config, topology),
        _finite_time(config, topology),
        _unfinished(config, topology),
    )
    return tuple(note for note in found if note is not None)


def schedule_note(config: RunConfig, topology: Topology) -> str | None:
    """Note on a file's weights that would average exactly, where others are chosen."""
    exact = exact_by_weights(topology, pushes_sums(config))
    found = None if exact is None else mixing_of(config, topology).convergence
    if found is None or found.exact is not None:
        return None
    return (
        f"--mixing weights would average exactly in {exact} rounds, by the weights in {topology.source}; --mixing "
        f"{config.gossip.mixing} does not"
    )


def _automatic(config: RunConfig, topology: Topology) -> str | None:
    """Note on the weights of --mixing auto; None where sums are relayed, along a tree."""
    if config.gossip.mixing != "auto" or uses_tree(config):
        return None
    return f"--mixing auto takes {weights_text(topology, 'auto', pushes_sums(config))}"


def _finite_time(config: RunConfig, topology: Topology) -> str | None:
    """Note on what happens between the exact averages, and where a peer is missing."""
    if not registry.MIXINGS[config.gossip.mixing].by_round:
        return None
    found = finite_time_weights(topology)
    return (
        f"--mixing {config.gossip.mixing}: what training adds to disagreements grows up to {found.growth:.3g} times "
        f"before it is gone {counted(found.rounds, 'round')} later{_with_losses(found)}"
    )


def _with_losses(found: FiniteTime) -> str:
    """Addition to a note where missing peers make disagreements grow by the period."""
    growth = found.growth_with_losses
    return f"; with peers missing it may grow {growth:.3g} times in each period" if growth > 1.001 else ""


def _unfinished(config: RunConfig, topology: Topology) -> str | None:
    """Note on rounds of several exchanges that end between two exact averages."""
    steps, found = config.gossip.gossip_steps, mixing_of(config, topology).convergence
    if steps == 1 or found is None or found.exact is None or steps % found.period == 0:
        return None
    return (
        f"--gossip-steps {steps}: the average is exact after each {counted(found.period, 'exchange')}; with a multiple "
        "of that every round ends with it"
    )
