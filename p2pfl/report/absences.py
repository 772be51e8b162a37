"""Who was done without in a run, in which rounds, and into which parts the graph then fell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx

from p2pfl.report.run import Run
from p2pfl.run.records import RoundRecord


def absences(run: Run) -> list[dict[str, Any]]:
    """For each peer that some neighbor went on without: `peer`, and `rounds` as [first, last] of each time."""
    rounds: dict[str, set[int]] = {}
    for own in run.records:
        for record in own:
            for name in record.absent or ():
                rounds.setdefault(name, set()).add(record.round)
    return [
        {"peer": name, "rounds": [[first, last] for first, last, _ in _spans((n, "") for n in sorted(rounds[name]))]}
        for name in run.topology.names
        if name in rounds
    ]


def weights_from_neighbors(run: Run) -> list[dict[str, Any]]:
    """Peers that had no weights to go on with: `peer`, the `round` in which it took over others', and `neighbors`."""
    return [
        {"peer": name, "round": record.round, "neighbors": record.weights_from}
        for name, own in zip(run.topology.names, run.records, strict=True)
        for record in own
        if record.weights_from
    ]


def unrecorded(run: Run) -> dict[str, list[list[int]]]:
    """By peer the rounds, as [first, last], of which a record was lost: others did them, and did not miss the peer.

    Nothing is known of clients, which record only some rounds, and of peers that a fault script stops.
    """
    if run.mode == "centralized":
        return {}
    names = run.topology.names
    by_round: dict[int, list[RoundRecord]] = {}
    for record in (record for own in run.records for record in own):
        by_round.setdefault(record.round, []).append(record)
    stopped = set() if run.script is None else run.script.victims()
    found = {}
    for peer, own in enumerate(run.records):
        done, last = {record.round for record in own}, own[-1].round if own else 0
        gone = [n for n in range(1, last) if n not in done and n in by_round and peer not in stopped]
        lost = [n for n in gone if not any(names[peer] in (record.absent or ()) for record in by_round[n])]
        if lost:
            found[names[peer]] = [[first, end] for first, end, _ in _spans((n, "") for n in lost)]
    return found


def undone(run: Run) -> list[list[int]]:
    """Rounds that nobody has recorded, as [first, last]: all were away at once, or the records are lost."""
    if run.mode != "gossip" or not all(run.records):
        return []
    done = {record.round for own in run.records for record in own}
    missing = sorted(set(range(1, max(done))) - done)
    return [[first, last] for first, last, _ in _spans((number, "") for number in missing)]


def parts(run: Run) -> list[dict[str, Any]]:
    """Where those at work in a round were not all connected: `rounds` as [first, last], and the `parts` by name.

    Edges count as missing over which somebody was done without, and those that a fault script cut.
    """
    if run.mode != "gossip":
        return []
    names, found = run.topology.names, []
    by_round: dict[int, dict[int, set[str]]] = {}
    for peer, own in enumerate(run.records):
        for record in own:
            by_round.setdefault(record.round, {})[peer] = set(record.absent or ())
    for number, absent in sorted(by_round.items()):
        cut = frozenset() if run.script is None else run.script.cuts(number)
        if cut or any(absent.values()):
            graph = nx.Graph()
            graph.add_nodes_from(absent)
            graph.add_edges_from(
                (a, b)
                for a, b in run.topology.graph.edges
                if a in absent and b in absent and names[b] not in absent[a] and names[a] not in absent[b]
                if (min(a, b), max(a, b)) not in cut
            )
            pieces = sorted(tuple(sorted(piece)) for piece in nx.connected_components(graph))
            if len(pieces) > 1:
                found.append((number, tuple(pieces)))
    return [
        {"rounds": [first, last], "parts": [[names[peer] for peer in piece] for piece in pieces]}
        for first, last, pieces in _spans(found)
    ]


def _spans(numbered: Iterable[tuple[int, Any]]) -> list[tuple[int, int, Any]]:
    """Consecutive numbers with the same value, as (first, last, value)."""
    spans: list[tuple[int, int, Any]] = []
    for number, value in numbered:
        if spans and spans[-1][1] == number - 1 and spans[-1][2] == value:
            spans[-1] = (spans[-1][0], number, value)
        else:
            spans.append((number, number, value))
    return spans


def spans_text(spans: Iterable[list[int]]) -> str:
    """Such as 3, 7–9."""
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in spans)
