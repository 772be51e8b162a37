"""Warnings about a run: caveats for the reader of its numbers, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pfl.faults import idle_faults
from p2pfl.modes import has_final_model
from p2pfl.report.fields import spans_text
from p2pfl.report.labels import class_cautions
from p2pfl.report.load import RecordedRun, of_phase
from p2pfl.report.missing import lost_records, rounds_without_records
from p2pfl.report.participation import participation
from p2pfl.util.units import counted

_HIGH_WAIT_SHARE = 0.3  # of the time of the training rounds
_LARGE_GAP = 0.05  # between the accuracies of the mean and the worst peer
_MAX_LISTED = 8  # items that a sentence lists; the rest are counted

# Mode -> the process that must have finished a round, and the consequence where the last one is missing.
_INCOMPLETE: dict[str, tuple[str, str]] = {
    "gossip": ("every peer", " There is no consensus model."),
    "centralized": ("the coordinator", " There is no final global model."),
    "sgd": ("the process", " There is no final model."),
    "local": ("every peer", ""),
}
# Mode -> effect of a lost process on the numbers.
_AFTER_LOSS: dict[str, str] = {
    "centralized": "The rounds continued without them; means of times and steps are those of the other clients.",
    "sgd": "",
}


def collect_warnings(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    """Warnings of a run, the most serious first; empty where all went well."""
    return [
        *_uncollected(run),
        *_unfinished(run, summary),
        *_losses(run, summary),
        *_scripted(run),
        *_missing(run, summary),
        *_damage(run, summary),
        *_participation(run),
        *_classes(run),
        *_training(run),
        *_waiting(run, summary),
        *_outcome(run, summary),
    ]


def _uncollected(run: RecordedRun) -> list[str]:
    """Peers of a run in pieces that have no record here."""
    if not run.uncollected:
        return []
    return [
        f"No records of {_listed(list(run.uncollected))}: all numbers are those of the other peers. Name the run "
        "directories of these peers, too (p2pfl report), or bring them together (p2pfl collect)."
    ]


def _unfinished(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    process, consequence = _INCOMPLETE[run.mode.name]
    if run.uncollected:
        process = "every peer with records" if process == "every peer" else process
    if summary["rounds_completed"] < summary["rounds"]:
        done = f"{summary['rounds_completed']} of {summary['rounds']}"
        return [f"The run is incomplete: {process} has finished {done} rounds.{consequence}"]
    if summary["status"] != "complete" and (not run.uncollected or summary["consensus_accuracy"] is None):
        return ["The consensus phase was not finished, so there is no consensus model."]
    return []


def _losses(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    if not summary["lost_peers"]:
        return []
    usual = "Means, accuracies and distances are those of the other peers."
    return [
        f"Lost during the run: {', '.join(summary['lost_peers'])}. {_AFTER_LOSS.get(run.mode.name, usual)}".rstrip()
    ]


def _scripted(run: RecordedRun) -> list[str]:
    """Faults of the fault script, and those without an edge in this run's graph."""
    if run.script is None:
        return []
    found = [f"A fault script was applied: {_listed(run.script.described())}."]
    idle = idle_faults(run.script, run.topology.graph.has_edge)
    if idle:
        found.append(f"Without effect, because this graph has no such edge: {_listed(idle)}.")
    if run.script.attackers and run.has_peer_models:
        found.append(f"Peers' accuracies exclude the attackers: {_listed(run.script.attackers)}.")
    return found


def _missing(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    found = []
    if spans := rounds_without_records(run):
        found.append(f"No peer completed round {spans_text(spans)}: all were away, or the records are lost.")
    if summary.get("restarts"):
        found.append(f"Restarted after a crash: {_listed([f'{n} ({c}×)' for n, c in summary['restarts'].items()])}.")
    if summary.get("missing_peers"):
        away = [f"{item['peer']} (round {spans_text(item['rounds'])})" for item in summary["missing_peers"]]
        found.append(f"Missing peers: {_listed(away)}. Their neighbors used their own weights instead.")
    for item in (summary.get("components") or [])[:_MAX_LISTED]:
        together = "; ".join(_listed(list(part)) for part in item["components"])
        found.append(f"In round {spans_text([item['rounds']])} the graph was disconnected; its components: {together}.")
    return found


def _damage(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    found = []
    if taken := summary.get("weights_from_neighbors"):
        peers = [f"{item['peer']} in round {item['round']} (from {', '.join(item['neighbors'])})" for item in taken]
        found.append(f"Bootstrapped from neighbors, as their own weights were lost or too old: {_listed(peers)}.")
    if lost := [f"{name} (round {spans_text(spans)})" for name, spans in lost_records(run).items()]:
        found.append(f"Records are lost and not included in the numbers: {_listed(lost)}.")
    if run.problems:
        found.append(f"Record files are damaged: {_listed(list(run.problems))}.")
    return found


def _participation(run: RecordedRun) -> list[str]:
    if run.coordinator is None or not run.rounds:
        return []
    found = []
    names = run.topology.names
    clients = participation(run)
    missed = {names[client]: len(own.missed) for client, own in enumerate(clients) if own.missed}
    if missed:
        rounds = len({number for own in clients for number in own.missed})
        worst = sorted(missed.items(), key=lambda item: -item[1])
        listed = _listed([f"{name} ({counted(count, 'round')})" for name, count in worst])
        found.append(f"In {counted(rounds, 'round')} updates were missing: client {listed}.")
    absent = [names[client] for client, own in enumerate(clients) if not own.averaged]
    if absent:
        found.append(f"The global model has no update from, and has not seen the data of: client {_listed(absent)}.")
    return found


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + more


def _classes(run: RecordedRun) -> list[str]:
    """Classes that training has not seen, or that depend on one peer."""
    nobody, single = class_cautions(run)
    found = []
    if nobody:
        found.append(f"Nobody has training samples of class {_listed(nobody)}: no model can learn them.")
    if single:
        peers = [f"{label} (only {name})" for label, name in single]
        found.append(f"A single peer has all training samples of class {_listed(peers)}: without it they are lost.")
    return found


def _training(run: RecordedRun) -> list[str]:
    trained = (record for peer in run.trainers for record in of_phase(run.records[peer], "train"))
    if any(record.train_loss is None and record.train_seconds > 0 for record in trained):
        return ["In some rounds the training loss was not a number: training diverged; try a smaller --lr."]
    return []


def _waiting(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    """Waiting time of peers; clients always wait for their coordinator."""
    shares = {name: summary[f"{name}_seconds"] or 0.0 for name in ("train", "exchange", "wait", "evaluate")}
    if run.mode.mixes and shares["wait"] > _HIGH_WAIT_SHARE * sum(shares.values()) > 0:
        share = shares["wait"] / sum(shares.values())
        return [f"Peers spent {share:.0%} of the training rounds waiting for slower neighbors."]
    return []


def _outcome(run: RecordedRun, summary: Mapping[str, Any]) -> list[str]:
    found = []
    if run.mode.mixes and not has_final_model(run.config):
        found.append(
            "There was no final merge (--final-merge none), so there is no consensus model: each peer ended with its "
            "own, which is in its newest checkpoint."
        )
    mean, worst = summary["mean_peer_accuracy"], summary["worst_peer_accuracy"]
    if mean is not None and mean - worst > _LARGE_GAP:
        found.append(f"The worst peer is {100 * (mean - worst):.1f} points below the mean of the peers.")
    model = summary["consensus_accuracy"]
    if model is not None and mean is not None and model < mean - 0.01:
        found.append(f"The consensus model is {100 * (mean - model):.1f} points below the mean of the peers.")
    start, end = summary["consensus_distance"], summary["final_consensus_distance"]
    wanted = run.config.gossip.consensus_tolerance
    if start and end is not None and end > 1.1 * wanted * start:
        found.append(
            f"The consensus phase reduced the disagreement to {end / start:.2g} of its start, not to {wanted:g}."
        )
    return found
