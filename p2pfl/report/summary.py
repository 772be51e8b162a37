"""The numbers that a run came to, as one flat JSON object."""

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
from p2pfl.report.absences import absences, parts, weights_from_neighbors
from p2pfl.report.output import write_text
from p2pfl.report.run import Run, load_run, model_record, of_phase, sent_by_process
from p2pfl.run.paths import SUMMARY_FILE
from p2pfl.run.records import RoundRecord
from p2pfl.topology import mixing_matrix, spectral_gap
from p2pfl.util.files import read_file, read_text

# Name -> what it is and its unit, in the order of the file. None (null) where a field has no meaning.
FIELDS: dict[str, str] = {
    "mode": "how it was trained",
    "topology": "name of the topology, or of the run",
    "peers": "number of peers or clients; a coordinator is not counted",
    "rounds": "rounds of local training asked for",
    "spectral_gap": "1 − ‖W − 11ᵀ/n‖₂ of the mixing matrix",
    "consensus_accuracy": "test accuracy of the final model (consensus or global), whole test set",
    "mean_peer_accuracy": "test accuracy after the last training round, mean of the peers",
    "worst_peer_accuracy": "test accuracy after the last training round, worst peer",
    "consensus_distance": "sqrt(mean ‖x_i − x̄‖²) after the last training round",
    "final_consensus_distance": "the same after the consensus phase",
    "consensus_rounds": "rounds of mixing alone that were run",
    "test_loss": "test loss of the final model",
    "seconds": "the whole run, wall clock",
    "train_seconds": "training, sum over the training rounds, mean of the peers or clients",
    "exchange_seconds": "exchange and mixing, likewise",
    "wait_seconds": "waiting for others, likewise",
    "evaluate_seconds": "evaluation, likewise; with a coordinator, its own",
    "samples_per_second": "training samples of all peers a second of the training rounds",
    "samples_total": "training samples processed by all peers or clients, also for updates that were never averaged",
    "bytes_sent_total": "sent by all processes in the training rounds",
    "bytes_sent_max_peer": "sent in the training rounds by the process that sent most",
    "busiest_peer": "the process that sent most",
    "consensus_bytes": "sent by all peers in the consensus phase",
    "optimizer_steps_per_peer": "optimizer steps of a peer, mean of the peers or clients",
    "lost_peers": "peers or clients that were lost for good",
    "absences": "peers that neighbors went on without, and in which rounds [first, last]",
    "parts": "rounds [first, last] in which the graph had fallen apart, and who was together",
    "faults": "what a fault script did, in plain words",
    "restarts": "how often each process that died was started again",
    "weights_from_neighbors": "peers that had no weights to go on with and took neighbors': who, in which round, whose",
    "damaged_records": "files of records that are damaged, and how: what cannot be read counts nowhere",
    "seed": "seed of everything random",
    "versions": "versions that it ran with",
    "consensus_seconds": "consensus phase, slowest peer, without the evaluation of its model",
    "status": "complete or incomplete",
    "rounds_completed": "the last training round that every peer, or the coordinator, has finished",
}
# Fields that are words or labels, not numbers to add up.
_ABOUT_PEERS = ("busiest_peer", "lost_peers", "absences", "parts", "faults", "restarts")
_DAMAGE = ("weights_from_neighbors", "damaged_records")
TEXT_FIELDS = ("mode", "topology", *_ABOUT_PEERS, *_DAMAGE, "seed", "versions", "status")
# What only a swarm that mixes has.
_GOSSIP_ONLY = ("spectral_gap", "final_consensus_distance", "consensus_rounds", "consensus_bytes", "consensus_seconds")


def summarize(
    run_dir: Path,
    *,
    lost_peers: Sequence[str] = (),
    restarts: Mapping[str, int] | None = None,
    versions: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Every field of `FIELDS`, in that order, from what the processes of a run recorded; its settings say the mode.

    Accuracies lie in 0..1. Peers' accuracies are those of the last training round asked for, before the consensus
    phase; they are None in a run that did not get there, and where there is one model only. Bytes of the training
    rounds and of the consensus phase are counted apart and never twice. Lost peers (their names) count for samples
    and bytes, not for means, accuracies or distances. A coordinator counts for bytes, and its evaluations are the
    run's; it has no part in the other means. `seconds` is the launcher's wall clock; without it, the longest time
    from a process's first round to its last.

    Raises ConfigError where the run directory cannot be read.
    """
    run = load_run(run_dir, lost_peers)
    values = {
        "mode": run.mode,
        "topology": run.name,
        "peers": len(run.trainers),
        "rounds": run.config.training.rounds,
        "spectral_gap": _gap(run) if run.mode == "gossip" else None,
        "seconds": seconds if seconds is not None else _longest(run, run.records),
        "lost_peers": list(lost_peers),
        "absences": absences(run),
        "parts": parts(run),
        "faults": [] if run.script is None else run.script.described(),
        "restarts": dict(restarts or {}),
        "weights_from_neighbors": weights_from_neighbors(run),
        "damaged_records": list(run.problems),
        "seed": run.config.record.seed,
        "versions": dict(versions or {}),
        **_accuracies(run),
        **_distances(run),
        **_times(run),
        **_work(run),
        **_traffic(run),
    }
    if run.mode != "gossip":
        values |= dict.fromkeys(_GOSSIP_ONLY)
    values["status"] = _status(values)
    return {name: _finite(values[name]) for name in FIELDS}


def _status(values: Mapping[str, Any]) -> str:
    at_end = values["rounds_completed"] == values["rounds"]
    agreed = values["mode"] != "gossip" or values["consensus_accuracy"] is not None
    return "complete" if at_end and agreed else "incomplete"


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json`, whole or not at all. Raises ConfigError where the folder cannot be written."""
    path = run_dir / SUMMARY_FILE
    write_text(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return path


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The object in `summary.json`. Raises ConfigError where there is none or it cannot be read."""
    path = run_dir / SUMMARY_FILE
    try:
        summary = json.loads(read_text(path))
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(summary, dict):
        raise ConfigError(f"{path}: not a summary (a JSON object is meant to stand there)")
    return summary


class _Facts(msgspec.Struct):
    """What a launcher knows of a run and its processes do not."""

    lost_peers: list[str] = []
    restarts: dict[str, int] = {}
    versions: dict[str, str] = {}
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None


def known_facts(run_dir: Path) -> dict[str, Any]:
    """What the records do not say and a launcher has written to `summary.json`, as `summarize` takes it.

    Empty where there is no such file, or none that can be read: the records are what counts.
    """
    try:
        known = msgspec.json.decode(read_file(run_dir / SUMMARY_FILE), type=_Facts)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: value for name, value in msgspec.structs.asdict(known).items() if value}


def complete_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a run that its launcher has called complete, if its records say so too; None of any other."""
    with suppress(P2PFLError):
        if read_summary(run_dir).get("status") == "complete":
            summary = summarize(run_dir, **known_facts(run_dir))
            return summary if summary["status"] == "complete" else None
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _gap(run: Run) -> float:
    return spectral_gap(mixing_matrix(run.topology, run.config.gossip.mixing))


def _longest(run: Run, recorded: Sequence[Sequence[RoundRecord]]) -> float | None:
    """Seconds to the last of these records; a coordinator's clock, where there is one, sees all of the run."""
    watched = recorded if run.coordinator is None else [recorded[run.coordinator]]
    return max((own[-1].elapsed for own in watched if own), default=None)


def _accuracies(run: Run) -> dict[str, Any]:
    number = run.config.training.rounds
    own = [r for peer in run.honest for r in run.records[peer] if r.round == number] if run.own_models else []
    last = own if number in run.rounds else []
    peers = [record.test_accuracy for record in last if record.test_accuracy is not None]
    measured = len(peers) == len(last) > 0
    model = model_record(run)
    return {
        "consensus_accuracy": model.test_accuracy if model else None,
        "mean_peer_accuracy": fmean(peers) if measured else None,
        "worst_peer_accuracy": min(peers) if measured else None,
        "test_loss": model.test_loss if model else None,
    }


def _distances(run: Run) -> dict[str, Any]:
    mixed = run.finished("consensus")
    return {
        "consensus_distance": run.distances.get(run.config.training.rounds),
        "final_consensus_distance": run.distances.get(mixed[-1]) if mixed and model_record(run) else None,
        "consensus_rounds": len(mixed),
        "rounds_completed": max(run.finished("train"), default=0),
    }


def _times(run: Run) -> dict[str, Any]:
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


def _mean_sum(run: Run, processes: Sequence[int], field: str) -> float | None:
    """The mean over processes of a field's sum over the training rounds."""
    trained = [of_phase(run.records[process], "train") for process in processes]
    return _mean([math.fsum(getattr(record, field) for record in own) for own in trained])


def _work(run: Run) -> dict[str, Any]:
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


def _traffic(run: Run) -> dict[str, Any]:
    sent = sent_by_process(run, "train")
    return {
        "bytes_sent_total": sum(sent),
        "bytes_sent_max_peer": max(sent),
        "busiest_peer": run.topology.names[sent.index(max(sent))] if max(sent) > 0 else None,
        "consensus_bytes": sum(r.bytes_sent for own in run.records for r in of_phase(own, "consensus")),
    }
