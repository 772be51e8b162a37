"""Missing peers by round, and the connected components that remained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx

from p2pfl.report.load import RecordedRun
from p2pfl.run.records import RoundRecord


def missing_peers(run: RecordedRun) -> list[dict[str, Any]]:
    """Peers without which some neighbor averaged: `peer`, and spans of `rounds`.

    A span is [first, last].
    """
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


def bootstrapped_peers(run: RecordedRun) -> list[dict[str, Any]]:
    """Peers bootstrapped from their neighbors' weights: `peer`, `round`, `neighbors`."""
    return [
        {"peer": name, "round": record.round, "neighbors": record.weights_from}
        for name, own in zip(run.topology.names, run.records, strict=True)
        for record in own
        if record.weights_from
    ]


def lost_records(run: RecordedRun) -> dict[str, list[list[int]]]:
    """Rounds whose record was lost, by peer, as spans [first, last].

    In such a round others have records and did not miss the peer. Unknown for clients, which record only some rounds,
    and for peers that a fault script stops.
    """
    if run.mode.has_coordinator:
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
        expected = [n for n in gone if not run.topology.is_schedule or any(g.degree(peer) for g in run.graphs_of(n))]
        lost = [n for n in expected if not any(names[peer] in (record.absent or ()) for record in by_round[n])]
        if lost:
            found[names[peer]] = [[first, end] for first, end, _ in _spans((n, "") for n in lost)]
    return found


def rounds_without_records(run: RecordedRun) -> list[list[int]]:
    """Rounds that no peer recorded, as spans [first, last].

    Either all peers were away at once, or the records are lost.
    """
    if not run.mode.mixes or not all(run.records):
        return []
    done = {record.round for own in run.records for record in own}
    missing = sorted(set(range(1, max(done))) - done)
    return [[first, last] for first, last, _ in _spans((number, "") for number in missing)]


def components(run: RecordedRun) -> list[dict[str, Any]]:
    """Connected components of the active peers, where there are several.

    Each item has `rounds` as [first, last] and the peers of each in `components`. An edge counts as missing if one of
    its ends averaged without the other, or if a fault script cut it.
    """
    if not run.mode.mixes:
        return []
    names, found = run.topology.names, []
    by_round: dict[int, dict[int, set[str]]] = {}
    for peer, own in enumerate(run.records):
        for record in own:
            by_round.setdefault(record.round, {})[peer] = set(record.absent or ())
    unknown = [peer for peer, name in enumerate(names) if name in run.uncollected]
    for number, absent in sorted(by_round.items()):
        absent |= {peer: set() for peer in unknown}  # present, unless a neighbor says otherwise
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
            separate = sorted(tuple(sorted(component)) for component in nx.connected_components(graph))
            if len(separate) > 1:
                found.append((number, tuple(separate)))
    return [
        {"rounds": [first, last], "components": [[names[peer] for peer in component] for component in separate]}
        for first, last, separate in _spans(found)
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
