"""Tables of states: closed, reachable, checked at a transition, and drawn."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfl.protocol.states import CLIENT, EDGE, PEER, PROGRESS, EdgeState, Stage, Transitions

TABLES = [PEER, CLIENT, EDGE, PROGRESS]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_state_is_in_the_table_and_can_be_reached(table: Transitions[Any]) -> None:
    (kind,) = {type(state) for state in table.table}
    assert set(table.table) == set(kind)
    reached, new = set(), set(table.initial)
    while new:
        reached |= new
        new = {after for state in new for after in table.table[state]} - reached
    assert reached == set(kind)


def test_an_illegal_transition_is_an_error() -> None:
    assert PEER.check(Stage.NEW, Stage.GREETING) is Stage.GREETING
    with pytest.raises(RuntimeError, match="peer or coordinator: no transition from ended to working"):
        PEER.check(Stage.ENDED, Stage.WORKING)
    with pytest.raises(RuntimeError, match="edge: no transition from down to up"):
        EDGE.check(EdgeState.DOWN, EdgeState.UP)


def test_a_table_is_drawn_with_each_transition_once() -> None:
    lines = PEER.mermaid().splitlines()
    assert lines[:3] == ["stateDiagram-v2", "    [*] --> new", "    new --> greeting: links stand"]
    assert lines[-1] == "    ended --> [*]"
    assert len(lines) == 3 + sum(map(len, PEER.table.values()))
    assert len(set(lines)) == len(lines)
