"""The plots of a comparison: what each is called, how to read it, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfl.report.comparison.accuracy import accuracy_against, draw_spread
from p2pfl.report.comparison.costs import draw_bytes, draw_time
from p2pfl.report.comparison.entries import Entry
from p2pfl.report.comparison.gossip import draw_distances, draw_phases, draw_topologies
from p2pfl.report.output import Plot

_LINES = (
    "Lines: mean of the peers, or the coordinator's model; stars: the final model. Bands: one standard deviation over "
    "seeds, or from the worst to the best peer where there is one seed. Before the last round a part of "
    "the test set may have been used."
)

PLOTS: tuple[Plot[Sequence[Entry]], ...] = (
    Plot(
        "accuracy-samples",
        "Test accuracy by samples processed",
        f"The axis on which the runs are matched: all process the same number of samples. {_LINES}",
        accuracy_against("samples"),
    ),
    Plot(
        "accuracy-rounds",
        "Test accuracy by round",
        "A round of FedAvg with few clients processes fewer samples, so it has more rounds. Stars of gossip stand "
        "after the rounds of the consensus phase.",
        accuracy_against("rounds"),
    ),
    Plot(
        "accuracy-seconds",
        "Test accuracy by time",
        "At the time when the last process had finished the round, on the machine that it ran on.",
        accuracy_against("seconds"),
    ),
    Plot(
        "accuracy-bytes",
        "Test accuracy by bytes sent",
        "By all processes together, the consensus phase included. A level line is the final accuracy of a run that "
        "sends nothing.",
        accuracy_against("bytes"),
    ),
    Plot(
        "peer-spread",
        "Peers at the end",
        "After the last training round, before the consensus phase: one tick a peer, on a bar from the worst to the "
        "best; seeds one below the other. Centralized runs and plain SGD have one model only.",
        draw_spread,
    ),
    Plot(
        "consensus-distance",
        "Consensus distance while training",
        "How far the peers stand apart after each training round, estimated from sketches to about 2 %. Its level "
        "depends on the gradients, so the spectral gap predicts none here. Bands: all seeds.",
        draw_distances,
    ),
    Plot(
        "consensus-phase",
        "Consensus phase beside the spectral gap's prediction",
        "In the rounds of mixing alone the gap does predict: from the measured start, mixing cannot do worse than its "
        "bound. Symmetric matrices mix with Chebyshev's acceleration. Float32 sets the floor.",
        draw_phases,
        wide=True,
    ),
    Plot(
        "topologies",
        "Who talks to whom",
        "Color: each node's latest test accuracy before the consensus phase, on one scale; empty where it is not "
        "measured, as of FedAvg's clients. The square is the coordinator. Peers without edges never exchange.",
        draw_topologies,
        wide=True,
    ),
    Plot(
        "node-bytes",
        "Bytes sent by each node",
        "Nodes sorted by what they sent, on one scale. Where not all send the same, the busiest is named and hatched.",
        draw_bytes,
        wide=True,
    ),
    Plot(
        "time",
        "Where the time went",
        "Mean of the processes that train. The report of each run shows every process on its own.",
        draw_time,
        wide=True,
    ),
)
