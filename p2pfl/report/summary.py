"""Summary of a run: its numbers as one flat JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec

from p2pfl.errors import ConfigError, P2PFLError, unreadable
from p2pfl.modes import has_final_model
from p2pfl.report.evaluated import sets_of
from p2pfl.report.fields import FIELDS
from p2pfl.report.load import RecordedRun, load_run, model_record, of_phase, sent_by_process
from p2pfl.report.missing import bootstrapped_peers, components, missing_peers
from p2pfl.report.output import write_text
from p2pfl.run.paths import SUMMARY_FILE
from p2pfl.run.records import RoundRecord
from p2pfl.topology import spectral_gap
from p2pfl.util.files import read_file, read_text
from p2pfl.util.means import weighted_mean

# Fields of a swarm that mixes; null in other modes.
_GOSSIP_ONLY = ("spectral_gap", "final_consensus_distance", "consensus_rounds", "consensus_bytes", "consensus_seconds")


# Longer than 40 lines: the fields' values in one place.
def summarize(
    run_dir: Path,
    *,
    lost_peers: Sequence[str] = (),
    restarts: Mapping[str, int] | None = None,
    versions: Mapping[str, str] | None = None,
    seconds: float | None = None,
    joined: Mapping[int, Path] | None = None,
) -> dict[str, Any]:
    """Values of all `FIELDS`, in that order, from the records of a run's processes.

    Accuracies lie in 0..1. Peers' accuracies are those of the last training round asked for, before the consensus
    phase; they are None in a run that did not get there, and where there is only one model. Bytes of the training
    rounds and of the consensus phase are counted separately and never twice. Lost peers (their names) count for
    samples and bytes, not for means, accuracies or distances. A coordinator counts for bytes, and its evaluations are
    the run's; it is left out of the other means. `seconds` is the launcher's wall-clock time; without it, the longest
    time from a process's first round to its last. `joined`: as of `load_run`.

    Raises ConfigError where the run directory cannot be read.
    """
    run = load_run(run_dir, lost_peers, joined)
    values = {
        "mode": run.mode.name,
        "topology": run.name,
        "peers": len(run.trainers),
        "rounds": run.config.training.rounds,
        "spectral_gap": _gap(run) if run.mode.mixes else None,
        "final_merge": None if run.merge is None else run.merge.rule,
        "seconds": seconds if seconds is not None else _longest(run, run.records),
        "lost_peers": list(lost_peers),
        "uncollected_peers": list(run.uncollected),
        "missing_peers": missing_peers(run),
        "components": components(run),
        "faults": [] if run.script is None else run.script.described(),
        "restarts": dict(restarts or {}),
        "weights_from_neighbors": bootstrapped_peers(run),
        "damaged_records": list(run.problems),
        "seed": run.config.record.seed,
        "versions": dict(versions or {}),
        **_accuracies(run),
        **_distances(run),
        **_times(run),
        **_work(run),
        **_traffic(run),
    }
    if not run.mode.mixes:
        values |= dict.fromkeys(_GOSSIP_ONLY)
    values["status"] = _status(values, run.mode.mixes and has_final_model(run.config))
    return {name: _finite(values[name]) for name in FIELDS}


def _status(values: Mapping[str, Any], merges: bool) -> str:
    """`merges`: whether a final merge has to follow the training rounds."""
    at_end = values["rounds_completed"] == values["rounds"]
    agreed = not merges or values["consensus_accuracy"] is not None
    return "complete" if at_end and agreed and not values["uncollected_peers"] else "incomplete"


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` atomically.

    Raises ConfigError where the folder cannot be written.
    """
    path = run_dir / SUMMARY_FILE
    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return path


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Read `summary.json`.

    Raises ConfigError where there is none or it cannot be read.
    """
    path = run_dir / SUMMARY_FILE
    try:
        summary = json.loads(read_text(path))
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(summary, dict):
        raise ConfigError(f"{path}: not a summary (it must hold a JSON object)")
    return summary


class _Facts(msgspec.Struct):
    """Facts about a run that its launcher knows and its processes do not."""

    lost_peers: list[str] = []
    restarts: dict[str, int] = {}
    versions: dict[str, str] = {}
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None


def known_facts(run_dir: Path) -> dict[str, Any]:
    """The launcher's facts in `summary.json`, as arguments of `summarize`.

    These are the facts that the records lack. Empty where there is no such file, or none that can be read: the
    records are what counts.
    """
    try:
        known = msgspec.json.decode(read_file(run_dir / SUMMARY_FILE), type=_Facts)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: value for name, value in msgspec.structs.asdict(known).items() if value}


def complete_summary(run_dir: Path) -> dict[str, Any] | None:
    """Summary of a complete run, None of any other.

    Complete is a run that both the launcher's `summary.json` and its records call complete.
    """
    with suppress(P2PFLError):
        if read_summary(run_dir).get("status") == "complete":
            summary = summarize(run_dir, **known_facts(run_dir))
            return summary if summary["status"] == "complete" else None
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _gap(run: RecordedRun) -> float | None:
    found = run.mixing
    if found is None:
        return None
    return spectral_gap(found.w) if found.convergence is None else found.convergence.gap


def _longest(run: RecordedRun, recorded: Sequence[Sequence[RoundRecord]]) -> float | None:
    """Seconds to the last of these records, by the coordinator's clock if any."""
    watched = recorded if run.coordinator is None else [recorded[run.coordinator]]
    return max((own[-1].elapsed for own in watched if own), default=None)


def _accuracies(run: RecordedRun) -> dict[str, Any]:
    number = run.config.training.rounds
    own = [r for peer in run.honest for r in run.records[peer] if r.round == number] if run.has_peer_models else []
    last = own if number in run.rounds else []
    peers = [record.test_accuracy for record in last if record.test_accuracy is not None]
    measured = len(peers) == len(last) > 0
    model = model_record(run)
    sets = sets_of([*last, *([] if model is None else [model])])
    return {
        "evaluated_on": min(sets) if len(sets) == 1 else None,
        "consensus_accuracy": model.test_accuracy if model else None,
        "mean_peer_accuracy": fmean(peers) if measured else None,
        "worst_peer_accuracy": min(peers) if measured else None,
        **_own_accuracies(run, last, model),
        "test_loss": model.test_loss if model else None,
    }


def _own_accuracies(run: RecordedRun, last: Sequence[RoundRecord], model: RoundRecord | None) -> dict[str, Any]:
    """Accuracies on the peers' own mixes of classes, and of each class.

    `last`: the records of the peers' own models. Where there is only a global model, it is measured on the mixes.
    """
    known = [shard for shard in run.shards if shard is not None]
    by_class = None if model is None else model.class_accuracy
    named = known and by_class is not None and len(known[0].classes) == len(by_class)
    if run.has_peer_models:
        own = [record.own_accuracy for record in last]
    else:
        own = [weighted_mean(by_class, shard.counts) for shard in known] if named and by_class is not None else []
    values = [value for value in own if value is not None]
    measured = len(values) == len(own) > 0
    return {
        "mean_own_accuracy": fmean(values) if measured else None,
        "worst_own_accuracy": min(values) if measured else None,
        "class_accuracy": dict(zip(known[0].classes, by_class or (), strict=True)) if named else None,
    }


def _distances(run: RecordedRun) -> dict[str, Any]:
    mixed = run.finished("consensus")
    return {
        "consensus_distance": run.distances.get(run.config.training.rounds),
        "final_consensus_distance": run.distances.get(mixed[-1]) if mixed and model_record(run) else None,
        "consensus_rounds": len(mixed),
        "rounds_completed": max(run.finished("train"), default=0),
    }


def _times(run: RecordedRun) -> dict[str, Any]:
    trainers = [peer for peer in run.survivors if peer in run.trainers]
    evaluators = trainers if run.coordinator is None else [run.coordinator]
    mixed = [of_phase(own, "consensus") for own in run.records]
    phases = [math.fsum(record.seconds - record.evaluate_seconds for record in own) for own in mixed if own]
    return {
        "train_seconds": _mean_sum(run, trainers, "train_seconds"),
        "exchange_seconds": _mean_sum(run, trainers, "exchange_seconds"),
        "wait_seconds": _mean_sum(run, trainers, "wait_seconds"),
        "evaluate_seconds": _mean_sum(run, evaluators, "evaluate_seconds"),
        "consensus_seconds": max(phases, default=None),
    }


def _mean_sum(run: RecordedRun, processes: Sequence[int], field: str) -> float | None:
    """Mean over processes of a field's sum over the training rounds."""
    trained = [of_phase(run.records[process], "train") for process in processes]
    return _mean([math.fsum(getattr(record, field) for record in own) for own in trained])


def _work(run: RecordedRun) -> dict[str, Any]:
    trained = [of_phase(own, "train") for own in run.records]
    samples = sum(own[-1].samples for own in (trained[peer] for peer in run.trainers) if own)
    wall = _longest(run, trained) or 0.0
    own_records = (trained[peer] for peer in run.survivors if peer in run.trainers)
    steps = [own[-1].steps if own else 0 for own in own_records]
    return {
        "samples_per_second": samples / wall if wall > 0 else None,
        "samples_total": samples,
        "optimizer_steps_per_peer": steps[0] if len(set(steps)) == 1 else _mean(steps),
    }


def _traffic(run: RecordedRun) -> dict[str, Any]:
    sent = sent_by_process(run, "train")
    return {
        "bytes_sent_total": sum(sent),
        "bytes_sent_max_peer": max(sent),
        "busiest_peer": run.topology.names[sent.index(max(sent))] if max(sent) > 0 else None,
        "consensus_bytes": sum(r.bytes_sent for own in run.records for r in of_phase(own, "consensus")),
    }
