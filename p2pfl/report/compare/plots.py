"""Plots of a comparison, with titles and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pfl.report.compare.accuracy import accuracy_against, draw_spread
from p2pfl.report.compare.consensus import draw_distances, draw_phases, draw_topologies
from p2pfl.report.compare.costs import draw_bytes, draw_time
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.panels import arrange, needs_panels
from p2pfl.report.output import Plot

_LINES = (
    "Lines: mean of the peers, or the coordinator's model; stars: final model. Bands: one standard deviation over "
    "seeds, or worst to best peer for one seed. Before the last round a part of the set may have been used; "
    "with a validation set, lines are measured on that, and stars on the test set unless --no-test."
)

PLOTS: tuple[Plot[Sequence[Entry]], ...] = (
    Plot(
        "accuracy-samples",
        "Accuracy by samples processed",
        f"Axis of the match: all runs process the same number of samples. {_LINES}",
        accuracy_against("samples"),
    ),
    Plot(
        "accuracy-rounds",
        "Accuracy by round",
        "A round of FedAvg with few clients processes fewer samples, so it has more rounds. Stars of gossip runs are "
        "placed after the consensus phase.",
        accuracy_against("rounds"),
    ),
    Plot(
        "accuracy-seconds",
        "Accuracy by time",
        "At the time when the last process finished the round, on the machine of the run.",
        accuracy_against("seconds"),
    ),
    Plot(
        "accuracy-bytes",
        "Accuracy by bytes sent",
        "Bytes of all processes, including the consensus phase. A horizontal line is the final accuracy of a run that "
        "sends nothing.",
        accuracy_against("bytes"),
    ),
    Plot(
        "peer-spread",
        "Final accuracy of peers",
        "After the last training round, before the consensus phase: one tick per peer, on a bar from the worst to the "
        "best; one row per seed. Centralized runs and plain SGD have only one model.",
        draw_spread,
    ),
    Plot(
        "consensus-distance",
        "Consensus distance in training",
        "Distance between the peers after each training round, estimated from sketches to about 1.1 %. It depends on "
        "the gradients, so the spectral gap does not predict it. Bands: all seeds.",
        draw_distances,
    ),
    Plot(
        "consensus-phase",
        "Consensus phase and its bounds",
        "In these rounds peers only mix, and the spectral gap predicts the distance: from the measured start, mixing "
        "cannot do worse than its bound. Symmetric matrices use Chebyshev acceleration. Float32 limits the smallest "
        "distance.",
        draw_phases,
        wide=True,
    ),
    Plot(
        "topologies",
        "Topologies",
        "Color: latest accuracy of a node before the consensus phase, on one scale; empty if not measured, as for "
        "FedAvg's clients. The square is the coordinator. Peers without edges never exchange.",
        draw_topologies,
        wide=True,
    ),
    Plot(
        "node-bytes",
        "Bytes sent by each node",
        "Nodes sorted by bytes sent, on one scale. Unless all send the same, the busiest is named and hatched.",
        draw_bytes,
        wide=True,
    ),
    Plot(
        "time",
        "Time by activity",
        "Mean of the processes that train. The report of each run shows every process.",
        draw_time,
        wide=True,
    ),
)

_LINE_PLOTS = ("accuracy-samples", "accuracy-rounds", "accuracy-seconds", "accuracy-bytes", "consensus-distance")


def plots_of(entries: Sequence[Entry]) -> tuple[Plot[Sequence[Entry]], ...]:
    """Plots of these entries; those of many are wide, and their lines in panels."""
    if not needs_panels(entries):
        return PLOTS
    divided = _panels_text(entries)
    return tuple(
        replace(plot, wide=True, caption=f"{plot.caption}{divided if plot.name in _LINE_PLOTS else ''}")
        for plot in PLOTS
    )


def _panels_text(entries: Sequence[Entry]) -> str:
    found = arrange(entries)
    looks = [line.style for panel in found.panels for line in panel.lines]
    text = f" One panel for each {found.dimension}." if found.dimension else ""
    if any(look.is_faint for look in looks):
        text += " In color: the most accurate, and the worst."
    return text
