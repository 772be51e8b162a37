"""Fields of a run's summary: meanings, units and text forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict

from p2pfl.util.units import byte_unit, bytes_text, number_text, percent_text, seconds_text

NO_VALUE = "–"

# Name -> meaning and unit, in the order of the file. None (null) where a field has no meaning.
FIELDS: dict[str, str] = {
    "mode": "training mode",
    "topology": "name of the topology, or of the run",
    "peers": "number of peers or clients; a coordinator is not counted",
    "rounds": "rounds of local training asked for",
    "spectral_gap": "1 − ‖W − 11ᵀ/n‖₂ of the mixing matrix; 1 − |λ₂| of a column-stochastic one; on a schedule the "
    "geometric mean over the rounds of a period, 1 where a period averages exactly; null where sums are relayed along "
    "a tree",
    "evaluated_on": "set of these accuracies: test, or validation (--no-test), and always the whole of it",
    "consensus_accuracy": "accuracy of the final model (consensus or global)",
    "mean_peer_accuracy": "accuracy after the last training round, mean of the peers",
    "worst_peer_accuracy": "accuracy after the last training round, worst peer",
    "mean_own_accuracy": "accuracy of each peer on its own mix of classes after the last training round, mean; "
    "of the global model, where there is one",
    "worst_own_accuracy": "accuracy on a peer's own mix of classes, worst peer, likewise",
    "class_accuracy": "accuracy of the final model on each class",
    "consensus_distance": "sqrt(mean ‖x_i − x̄‖²) after the last training round",
    "final_consensus_distance": "consensus distance after the consensus phase",
    "final_merge": "rule of the final merge: exact, chebyshev, plain, push-sum, robust, or none (--final-merge none: "
    "each peer ends with its own model, and there is no final one); an own algorithm may have another one",
    "consensus_rounds": "rounds of the consensus phase (mixing only)",
    "test_loss": "loss of the final model on the same set",
    "seconds": "wall-clock time of the whole run",
    "train_seconds": "training time, sum over the training rounds, mean of the peers or clients",
    "exchange_seconds": "time for exchange and mixing, likewise",
    "wait_seconds": "time spent waiting for others, likewise",
    "evaluate_seconds": "evaluation time, likewise; with a coordinator, that of the coordinator",
    "samples_per_second": "training samples per second of all peers in the training rounds",
    "samples_total": "training samples processed by all peers or clients, also for updates that were never averaged",
    "bytes_sent_total": "bytes sent by all processes in the training rounds",
    "bytes_sent_max_peer": "bytes sent in the training rounds by the busiest process",
    "busiest_peer": "process that sent most",
    "consensus_bytes": "bytes sent by all peers in the consensus phase",
    "optimizer_steps_per_peer": "optimizer steps of a peer, mean of the peers or clients",
    "lost_peers": "peers or clients that were lost permanently",
    "uncollected_peers": "peers of a run in pieces without any record, as their directories are not collected",
    "missing_peers": "missing peers, and the rounds [first, last] in which neighbors averaged without them",
    "components": "connected components, and the rounds [first, last] in which the graph was disconnected",
    "faults": "faults of the fault script",
    "restarts": "number of restarts of each process that died",
    "weights_from_neighbors": "peers bootstrapped from their neighbors' weights: peer, round, neighbors",
    "damaged_records": "damaged record files, and the damage: unreadable records count nowhere",
    "seed": "seed of all randomness",
    "versions": "versions of Python and the libraries",
    "consensus_seconds": "time of the consensus phase, slowest peer, without the evaluation of its model",
    "status": "complete or incomplete",
    "rounds_completed": "last training round that every peer, or the coordinator, has finished",
}


class MissingPeer(TypedDict):
    """Item of `missing_peers`: a label, and spans [first, last] of rounds."""

    peer: str
    rounds: list[tuple[int, int]]


class Disconnected(TypedDict):
    """Item of `components`: a span [first, last], and the labels of each component."""

    rounds: tuple[int, int]
    components: list[list[str]]


class Bootstrapped(TypedDict):
    """Item of `weights_from_neighbors`: a label, a round, and the neighbors' labels."""

    peer: str
    round: int
    neighbors: list[str]


# Type of a field in the file; a number that is not known, or has no meaning in the mode, is null.
_NUMBER = float | None
_TYPES: dict[str, Any] = {
    "mode": str,
    "topology": str,
    **dict.fromkeys(("peers", "rounds", "samples_total", "bytes_sent_total", "bytes_sent_max_peer", "seed"), int),
    "consensus_rounds": int | None,
    "consensus_bytes": int | None,
    "rounds_completed": int,
    "busiest_peer": str | None,
    "evaluated_on": Literal["test", "validation"] | None,
    "final_merge": Literal["exact", "chebyshev", "plain", "push-sum", "robust", "none"] | None,
    "class_accuracy": dict[str, float | None] | None,
    "lost_peers": list[str],
    "uncollected_peers": list[str],
    "missing_peers": list[MissingPeer],
    "components": list[Disconnected],
    "faults": list[str],
    "restarts": dict[str, int],
    "weights_from_neighbors": list[Bootstrapped],
    "damaged_records": list[str],
    "versions": dict[str, str],
    "status": Literal["complete", "incomplete"],
}
TYPES: dict[str, Any] = {name: _TYPES.get(name, _NUMBER) for name in FIELDS}
# Fields that are words or labels, not numbers to add up.
_ABOUT_PEERS = ("busiest_peer", "lost_peers", "uncollected_peers", "missing_peers", "components", "faults", "restarts")
_DAMAGE = ("weights_from_neighbors", "damaged_records")
TEXT_FIELDS = (
    "mode",
    "topology",
    "evaluated_on",
    "final_merge",
    "class_accuracy",
    *_ABOUT_PEERS,
    *_DAMAGE,
    "seed",
    "versions",
    "status",
)


def number_formats(field: str) -> tuple[Callable[[float], str], Callable[[float, float], str]]:
    """Formatters for a numeric field: of one value, and of mean and deviation."""
    if field.endswith("accuracy"):
        return percent_text, _percent_spread
    if field.endswith("seconds"):
        return seconds_text, _seconds_spread
    if "bytes" in field:
        return bytes_text, _bytes_spread
    return number_text, _number_spread


def _percent_spread(mean: float, std: float) -> str:
    return f"{100 * mean:.2f} ± {100 * std:.2f} %"


def _bytes_spread(mean: float, std: float) -> str:
    size, name = byte_unit(mean)
    if std < 0.005 * size:  # it would change no digit that is shown
        return bytes_text(mean)
    return f"{mean / size:.3g} ± {std / size:.2g} {name}"


def _seconds_spread(mean: float, std: float) -> str:
    return f"{mean:.3g} ± {std:.2g} s" if mean < 60 else f"{seconds_text(mean)} ± {seconds_text(std)}"


def _number_spread(mean: float, std: float) -> str:
    return f"{number_text(mean)} ± {std:,.0f}" if std >= 10 else f"{number_text(mean)} ± {std:.2g}"


def value_text(field: str, value: Any) -> str:
    """A summary field's value as text."""
    if field == "class_accuracy" and value is not None:
        return ", ".join(f"{name} {NO_VALUE if of is None else percent_text(of)}" for name, of in value.items())
    if field in TEXT_FIELDS:
        return words_text(value)
    return NO_VALUE if value is None else number_formats(field)[0](value)


def words_text(value: Any) -> str:
    """A field that is not a number: a name, list, mapping, or [first, last]."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words_text(of)}" for name, of in value.items()) or NO_VALUE
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(end, int) for end in value):
            return spans_text([value])
        items = map(words_text, value)
        return ("; " if any(isinstance(item, Mapping) for item in value) else ", ").join(items) or "none"
    return NO_VALUE if value is None else str(value)


def spans_text(spans: Iterable[list[int] | tuple[int, ...]]) -> str:
    """Spans of rounds, such as 3, 7–9 for [3, 3] and [7, 9]."""
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in spans)
