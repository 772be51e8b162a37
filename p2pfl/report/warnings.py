"""What a reader must know before believing a run's numbers, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pfl.faults import idle_faults
from p2pfl.report.absences import spans_text, undone, unrecorded
from p2pfl.report.clients import participation
from p2pfl.report.run import Run, of_phase

_MUCH_WAITING = 0.3  # share of the time
_FAR_BEHIND = 0.05  # accuracy of the worst peer below the mean
_NAMED = 8  # clients that a sentence names; more are counted

# Mode -> who must have finished a round, and what is missing without the last one.
_WHO: dict[str, tuple[str, str]] = {
    "gossip": ("every peer", " There is no consensus model."),
    "centralized": ("the coordinator", " There is no final global model."),
    "sgd": ("the process", " There is no final model."),
    "local": ("every peer", ""),
}
# Mode -> what the loss of a process means for the numbers.
_WITHOUT: dict[str, str] = {
    "centralized": "Rounds went on without them; means of times and steps are those of the other clients.",
    "sgd": "",
}


def cautions(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """The sentences, the gravest first; none where all went well."""
    return [
        *_unfinished(run, summary),
        *_losses(run, summary),
        *_scripted(run),
        *_absences(run, summary),
        *_damage(run, summary),
        *_participation(run),
        *_training(run),
        *_waiting(run, summary),
        *_outcome(run, summary),
    ]


def _unfinished(run: Run, summary: Mapping[str, Any]) -> list[str]:
    who, without = _WHO[run.mode]
    if summary["rounds_completed"] < summary["rounds"]:
        done = f"{summary['rounds_completed']} of {summary['rounds']}"
        return [f"The run is incomplete: {who} has finished {done} rounds.{without}"]
    if summary["status"] != "complete":
        return ["The consensus phase was not finished, so there is no consensus model."]
    return []


def _losses(run: Run, summary: Mapping[str, Any]) -> list[str]:
    if not summary["lost_peers"]:
        return []
    usual = "Means, accuracies and distances are those of the other peers."
    return [f"Lost on the way: {', '.join(summary['lost_peers'])}. {_WITHOUT.get(run.mode, usual)}".rstrip()]


def _scripted(run: Run) -> list[str]:
    """What a fault script did, and what did not exist in this run's graph to do it to."""
    if run.script is None:
        return []
    found = [f"A fault script was played: {_listed(run.script.described())}."]
    idle = idle_faults(run.script, run.topology.graph.has_edge)
    if idle:
        found.append(f"Of it, this changed nothing here, where there is no such edge: {_listed(idle)}.")
    if run.script.attackers and run.own_models:
        found.append(f"Peers' accuracies leave out those who attack: {_listed(run.script.attackers)}.")
    return found


def _absences(run: Run, summary: Mapping[str, Any]) -> list[str]:
    found = []
    if spans := undone(run):
        found.append(f"Round {spans_text(spans)} was recorded by nobody: all were away, or the records are lost.")
    if summary.get("restarts"):
        found.append(f"Died and started again: {_listed([f'{n} ({c}×)' for n, c in summary['restarts'].items()])}.")
    if summary.get("absences"):
        away = [f"{item['peer']} (round {spans_text(item['rounds'])})" for item in summary["absences"]]
        found.append(f"Neighbors went on without: {_listed(away)}. Their own weights stood in its place.")
    for item in (summary.get("parts") or [])[:_NAMED]:
        together = "; ".join(_listed(list(part)) for part in item["parts"])
        found.append(f"In round {spans_text([item['rounds']])} the graph had fallen apart: {together}.")
    return found


def _damage(run: Run, summary: Mapping[str, Any]) -> list[str]:
    found = []
    if taken := summary.get("weights_from_neighbors"):
        who = [f"{item['peer']} in round {item['round']} (from {', '.join(item['neighbors'])})" for item in taken]
        found.append(f"Without weights of their own, or too far behind, these took over neighbors': {_listed(who)}.")
    if lost := [f"{name} (round {spans_text(spans)})" for name, spans in unrecorded(run).items()]:
        found.append(f"Records are lost, and the numbers are without them: {_listed(lost)}.")
    if run.problems:
        found.append(f"Files of records are damaged: {_listed(list(run.problems))}.")
    return found


def _participation(run: Run) -> list[str]:
    if run.coordinator is None or not run.rounds:
        return []
    found = []
    names = run.topology.names
    parts = participation(run)
    missed = {names[client]: len(part.missed) for client, part in enumerate(parts) if part.missed}
    if missed:
        rounds = len({number for part in parts for number in part.missed})
        worst = sorted(missed.items(), key=lambda item: -item[1])
        clients = _listed([f"{name} ({_counted(count, 'round')})" for name, count in worst])
        found.append(f"In {_counted(rounds, 'round')} updates were missing: client {clients}.")
    absent = [names[client] for client, part in enumerate(parts) if not part.averaged]
    if absent:
        found.append(f"Without any update in the global model, which has not seen its data: client {_listed(absent)}.")
    return found


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more


def _training(run: Run) -> list[str]:
    trained = (record for peer in run.trainers for record in of_phase(run.records[peer], "train"))
    if any(record.train_loss is None and record.train_seconds > 0 for record in trained):
        return ["In some rounds the training loss was not a number: training diverged. Try a smaller --lr."]
    return []


def _waiting(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """Only of peers: clients wait while the coordinator averages and evaluates, whatever their neighbors' speed."""
    parts = {name: summary[f"{name}_seconds"] or 0.0 for name in ("train", "exchange", "wait", "evaluate")}
    if run.mode == "gossip" and parts["wait"] > _MUCH_WAITING * sum(parts.values()) > 0:
        share = parts["wait"] / sum(parts.values())
        return [f"Peers spent {share:.0%} of the training rounds waiting for slower neighbors."]
    return []


def _outcome(run: Run, summary: Mapping[str, Any]) -> list[str]:
    found = []
    mean, worst = summary["mean_peer_accuracy"], summary["worst_peer_accuracy"]
    if mean is not None and mean - worst > _FAR_BEHIND:
        found.append(f"The worst peer is {100 * (mean - worst):.1f} points below the mean of the peers.")
    model = summary["consensus_accuracy"]
    if model is not None and mean is not None and model < mean - 0.01:
        found.append(f"The consensus model is {100 * (mean - model):.1f} points below the mean of the peers.")
    start, end = summary["consensus_distance"], summary["final_consensus_distance"]
    wanted = run.config.gossip.consensus_tolerance
    if start and end is not None and end > 1.1 * wanted * start:
        found.append(f"The consensus phase shrank disagreement to {end / start:.2g} of its start, not to {wanted:g}.")
    return found
