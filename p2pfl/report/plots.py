"""Which plots a run of each mode has, and how to read them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from p2pfl.config import Mode
from p2pfl.report.clients import draw_participation, shares
from p2pfl.report.curves import Axis, draw_accuracy, draw_distance, draw_drift, draw_loss
from p2pfl.report.output import Plot
from p2pfl.report.picture import topology_figure
from p2pfl.report.run import Run, latest_accuracy
from p2pfl.report.traffic import draw_edges, draw_senders, draw_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _topology(run: Run) -> Figure:
    values = [latest_accuracy(own) for own in run.records]
    return topology_figure(run.topology, values=values, title="", edges=run.mode == "gossip")


def _clients(run: Run) -> Figure:
    label = "rounds with its update (% of all)"
    return topology_figure(run.topology, values=shares(run), title="", label=label, hub=run.coordinator)


def _accuracy(name: str, what: str, how: str, axis: Axis) -> Plot[Run]:
    return Plot(f"accuracy-{name}", f"Test accuracy by {what}", how, partial(draw_accuracy, axis=axis))


def _bytes(label: str) -> Axis:
    return Axis(label, Run.bytes_sent, of_bytes=True)


_ROUND = Axis("round")
_TIME = Axis("seconds since the first round began", Run.elapsed)
_PEERS = "The line is the mean of the peers, the band reaches from the worst to the best, "
_GLOBAL = "Of the global model after each round's averaging; the star is the final one on the whole test set"
_ALONE = "The star is the final model on the whole test set"
_DRIFT = "estimated from sketches to about 2 %."

_loss = Plot("training-loss", "Training loss", "Mean over each round's local steps, before mixing.", draw_loss)
_edges = Plot(
    "edge-bytes",
    "Bytes by edge",
    "What each row's peer sent to each column's over the whole run, the consensus phase included.",
    draw_edges,
)
_senders = Plot(
    "peer-bytes",
    "Bytes by peer",
    "What each peer sent in the training rounds. Hatched: whoever sent most, and all within 1 % of that.",
    draw_senders,
    wide=True,
)
_time = Plot(
    "time",
    "Where the time went",
    "Each peer's seconds in the training rounds. Waiting means that a neighbor was slower.",
    draw_time,
    wide=True,
)
_picture = Plot(
    "topology",
    "The topology",
    "Color: each peer's latest test accuracy before the consensus phase; empty if it was never measured.",
    _topology,
)

PLOTS: dict[Mode, tuple[Plot[Run], ...]] = {
    "gossip": (
        _accuracy("rounds", "round", _PEERS + "the star is the consensus model.", _ROUND),
        _loss,
        _accuracy("seconds", "time", _PEERS + "at the time when the last peer had finished.", _TIME),
        _accuracy("bytes", "bytes sent", _PEERS + "against all peers' bytes.", _bytes("sent by all peers")),
        Plot(
            "consensus-distance",
            "Consensus distance",
            f"Left: how far the peers stood apart after each training round, {_DRIFT} "
            "Its level depends on the gradients, so the spectral gap predicts none there. Right: in the consensus "
            "phase it does; from the measured start, mixing cannot do worse than its bound.",
            draw_distance,
            wide=True,
        ),
        _picture,
        _edges,
        _senders,
        _time,
    ),
    "local": (
        _accuracy("rounds", "round", _PEERS + "and no model is common to all.", _ROUND),
        replace(_loss, caption="Mean over each round's local steps."),
        _accuracy("seconds", "time", _PEERS + "at the time when the last peer had finished.", _TIME),
        replace(
            _picture,
            title="The peers",
            caption="Each stands where its topology places it, but no edge was used. Color: its latest test accuracy; "
            "empty if it was never measured.",
        ),
        Plot(
            "consensus-distance",
            "Consensus distance",
            f"How far the peers drifted apart, since nothing held them together; {_DRIFT}",
            draw_drift,
            wide=True,
        ),
        replace(_time, caption="Each peer's seconds in the training rounds; nobody waits for anybody."),
    ),
    "sgd": (
        _accuracy("rounds", "round", f"{_ALONE}.", _ROUND),
        replace(_loss, caption="Mean over each round's steps."),
        _accuracy("seconds", "time", f"{_ALONE}.", _TIME),
        replace(_time, caption="Seconds of the one process.", wide=False),
    ),
    "centralized": (
        _accuracy("rounds", "round", f"{_GLOBAL}.", _ROUND),
        replace(_loss, caption="Mean over the clients whose updates were averaged in a round."),
        _accuracy("seconds", "time", f"{_GLOBAL}, by the coordinator's clock.", _TIME),
        _accuracy(
            "bytes",
            "bytes sent",
            f"{_GLOBAL}, against the bytes of coordinator and clients.",
            _bytes("sent by coordinator and clients"),
        ),
        Plot(
            "participation",
            "Who took part",
            "Rounds whose average has the client's update, and rounds for which it was drawn but its update was "
            "missing at the deadline.",
            draw_participation,
            wide=True,
        ),
        replace(
            _picture,
            title="Coordinator and clients",
            caption="Color: the share of the rounds with the client's update.",
            draw=_clients,
        ),
        replace(_edges, caption="What each row's process sent to each column's over the whole run."),
        replace(
            _senders,
            title="Bytes by process",
            caption="What coordinator and clients sent in all rounds. Hatched: whoever sent most.",
        ),
        replace(
            _time,
            caption="Seconds of the rounds that a process recorded: the coordinator all of them, a client those in "
            "which it took part. Only the coordinator evaluates.",
        ),
    ),
}
