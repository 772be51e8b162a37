"""Plots of a run's report by mode, with titles and captions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from p2pfl.config import Mode
from p2pfl.report.curves import Axis, draw_accuracy, draw_distance, draw_drift, draw_loss
from p2pfl.report.evaluated import accuracy_label, latest_accuracies, latest_set
from p2pfl.report.labels import draw_class_accuracy, draw_shards
from p2pfl.report.load import RecordedRun
from p2pfl.report.output import Plot
from p2pfl.report.participation import draw_participation, shares
from p2pfl.report.topology_plot import topology_figure
from p2pfl.report.traffic import draw_edges, draw_senders, draw_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _topology(run: RecordedRun) -> Figure:
    label = accuracy_label([latest_set(run)])
    rounds = run.topology.rounds if run.mode.mixes else ()
    title = f"Edges of all {len(rounds)} graphs of the schedule" if rounds else ""
    values = latest_accuracies(run)
    return topology_figure(run.topology, values=values, title=title, label=label, edges=run.mode.mixes)


def _clients(run: RecordedRun) -> Figure:
    label = "rounds with the client's update (%)"
    return topology_figure(run.topology, values=shares(run), title="", label=label, hub=run.coordinator)


def _accuracy(name: str, by: str, caption: str, axis: Axis) -> Plot[RecordedRun]:
    return Plot(f"accuracy-{name}", f"Accuracy by {by}", caption, partial(draw_accuracy, axis=axis))


def _bytes(label: str) -> Axis:
    return Axis(label, RecordedRun.bytes_sent, of_bytes=True)


_ROUND = Axis("round")
_TIME = Axis("seconds since the first round began", RecordedRun.elapsed)
_PEERS = "Line: mean of the peers; band: worst to best peer; "
_WHOLE = "the whole test set (the validation set with --no-test)"
_GLOBAL = f"Global model after each round's averaging; star: final model on {_WHOLE}"
_ALONE = f"Star: final model on {_WHOLE}"
_DRIFT = "estimated from sketches to about 1.1 %."

_loss = Plot("training-loss", "Training loss", "Mean over each round's local steps, before mixing.", draw_loss)
_edges = Plot(
    "edge-bytes",
    "Bytes by edge",
    "Sent by the peer of the row to the peer of the column over the whole run, including the consensus phase.",
    draw_edges,
)
_senders = Plot(
    "peer-bytes",
    "Bytes by peer",
    "Sent by each peer in the training rounds. Hatched: the busiest peer, and all within 1 % of it.",
    draw_senders,
    wide=True,
)
_time = Plot(
    "time",
    "Time by activity",
    "Seconds of each peer in the training rounds. Waiting means that a neighbor was slower.",
    draw_time,
    wide=True,
)
_picture = Plot(
    "topology",
    "Topology",
    "Color: latest accuracy before the consensus phase; empty if never measured.",
    _topology,
)

_shards = Plot(
    "shards",
    "Samples by peer and class",
    "Training samples of each class that a peer has, and all its samples.",
    draw_shards,
    wide=True,
)
_classes = Plot(
    "class-accuracy",
    "Accuracy by class",
    f"Of the consensus model, on {_WHOLE}.",
    draw_class_accuracy,
)

PLOTS: dict[Mode, tuple[Plot[RecordedRun], ...]] = {
    "gossip": (
        _accuracy("rounds", "round", _PEERS + "star: consensus model.", _ROUND),
        _loss,
        _accuracy("seconds", "time", _PEERS + "at the time when the last peer finished.", _TIME),
        _accuracy("bytes", "bytes sent", _PEERS + "against the bytes of all peers.", _bytes("sent by all peers")),
        Plot(
            "consensus-distance",
            "Consensus distance",
            f"Left: distance between the peers after each training round, {_DRIFT} It depends on the gradients, so "
            "the spectral gap does not predict it. Right: consensus phase, where it does; from the measured start, "
            "mixing cannot do worse than its bound.",
            draw_distance,
            wide=True,
        ),
        _picture,
        _classes,
        _shards,
        _edges,
        _senders,
        _time,
    ),
    "local": (
        _accuracy("rounds", "round", _PEERS + "there is no common model.", _ROUND),
        replace(_loss, caption="Mean over each round's local steps."),
        _accuracy("seconds", "time", _PEERS + "at the time when the last peer finished.", _TIME),
        replace(
            _picture,
            title="Peers",
            caption="Placed as in the topology, whose edges were not used. Color: latest accuracy; empty if never "
            "measured.",
        ),
        Plot(
            "consensus-distance",
            "Consensus distance",
            f"Distance between the peers, which drift apart without exchange; {_DRIFT}",
            draw_drift,
            wide=True,
        ),
        _shards,
        replace(_time, caption="Seconds of each peer in the training rounds; no peer waits for another."),
    ),
    "sgd": (
        _accuracy("rounds", "round", f"{_ALONE}.", _ROUND),
        replace(_loss, caption="Mean over each round's steps."),
        _accuracy("seconds", "time", f"{_ALONE}.", _TIME),
        replace(_classes, caption=f"Of the final model, on {_WHOLE}."),
        replace(_time, caption="Seconds of the single process.", wide=False),
    ),
    "centralized": (
        _accuracy("rounds", "round", f"{_GLOBAL}.", _ROUND),
        replace(_loss, caption="Mean over the clients whose updates were averaged in a round."),
        _accuracy("seconds", "time", f"{_GLOBAL}; time by the coordinator's clock.", _TIME),
        _accuracy(
            "bytes",
            "bytes sent",
            f"{_GLOBAL}; against the bytes of coordinator and clients.",
            _bytes("sent by coordinator and clients"),
        ),
        Plot(
            "participation",
            "Participation",
            "Rounds whose average includes the client's update, and rounds for which it was drawn but its update was "
            "missing at the deadline.",
            draw_participation,
            wide=True,
        ),
        replace(
            _picture,
            title="Coordinator and clients",
            caption="Color: share of the rounds with the client's update.",
            draw=_clients,
        ),
        replace(_classes, caption="Of the global model, on the whole test set."),
        replace(
            _shards, title="Samples by client and class", caption="Training samples of each class that a client has."
        ),
        replace(_edges, caption="Sent by the process of the row to the process of the column over the whole run."),
        replace(
            _senders,
            title="Bytes by process",
            caption="Sent by coordinator and clients in all rounds. Hatched: the busiest process.",
        ),
        replace(
            _time,
            caption="Seconds of the rounds that a process recorded: all rounds for the coordinator, and those in which "
            "it took part for a client. Only the coordinator evaluates.",
        ),
    ),
}
