"""Fault scripts: refusals, queries, random draws, faults of the own process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.support.fault_scripts import CUT, DROP, fault

from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, check_faults, idle_faults, load_faults
from p2pfl.faults.injector import FaultInjector, fired
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Refused
from p2pfl.run.paths import FIRED_FILE
from p2pfl.topology import make_topology
from p2pfl.transport import Conditioner, MemoryHub, MemoryTransport, ScriptedFaults

NAMES = [str(peer) for peer in range(8)]
ROUNDS = 40


def read(folder: Path, text: str, names: list[str] | None = None, coordinator: str | None = None) -> FaultScript:
    path = folder / "faults.toml"
    path.write_text(text)
    script = load_faults(path, 3)
    return check_faults(script, str(path), names or NAMES, ROUNDS, coordinator, overlapped=False)


KILL = {"kind": "kill", "peer": "3", "round": 10}
PAUSE = {"kind": "pause", "peer": "3", "round": 10, "resume": 15}
ATTACK = {"kind": "attack", "peer": "3", "rounds": [5, 8], "attack": "sign-flip"}

REFUSED = {
    "nothing": ("", "missing required field 'fault'"),
    "no TOML": ("fault = [", "not TOML"),
    "nested without end": ("fault = " + "[" * 5000, "too deeply nested"),
    "no list": ("[fault]\nkind = 'kill'", "fault: expected 'array', got 'object'"),
    "no table": ("fault = [1]", "fault 1: expected 'object', got 'int'"),
    "unknown option": ("speed = 1\n" + fault(**KILL), "unknown field 'speed'"),
    "negative seed": ("seed = -1\n" + fault(**KILL), "seed: expected 'int' >= 0"),
    "no kind": (fault(peer="3"), "fault 1: object missing required field 'kind'"),
    "unknown kind": (
        fault(kind="boom"),
        "kind: invalid value 'boom'; choose one of kill, pause, partition, delay, drop",
    ),
    "no peer": (fault(kind="kill", round=3), "fault 1 (kill): object missing required field 'peer'"),
    "second one": (fault(**KILL) + fault(**DROP, speed=1), "fault 2 (drop): object contains unknown field 'speed'"),
    "a peer's number": (fault(**{**KILL, "peer": 3}), "fault 1 (kill): peer: expected 'str', got 'int'"),
    "round 0": (fault(**{**KILL, "round": 0}), "round: expected 'int' >= 1"),
    "round after the last": (fault(**{**KILL, "round": 41}), "round: 41, but the run has 40 rounds"),
    "unknown point": (
        fault(**KILL, at="lunch"),
        "at: invalid enum value 'lunch'; choose one of start, train, exchange",
    ),
    "unknown peer": (fault(**{**KILL, "peer": "9"}), "peer: there is no node '9'; choose one of 0, 1, 2"),
    "back too early": (fault(**KILL, restart=10), "restart: 10 must be a later round than 10"),
    "back after the last": (fault(**KILL, restart=41), "restart: 41, but the run has 40 rounds"),
    "awake too early": (fault(**{**PAUSE, "resume": 11}), "resume: 11 must be at least two rounds after 10"),
    "dead already": (
        fault(**KILL) + fault(**{**PAUSE, "round": 12}),
        "fault 2 (pause): round: 3 has been killed for good",
    ),
    "away": (fault(**KILL, restart=20) + fault(**PAUSE), "fault 2 (pause): round: 3 is away until round 20"),
    "unknown end": (fault(**{**DROP, "edge": ["0", "x"]}), "edge: there is no node 'x'"),
    "one end": (fault(**{**DROP, "edge": ["0"]}), "edge: expected 'array' of length 2, got 1"),
    "same ends": (fault(**{**DROP, "edge": ["0", "0"]}), "edge: must be two different nodes"),
    "rounds the wrong way": (fault(**{**DROP, "rounds": [8, 5]}), "rounds: [8, 5] must be [first, last]"),
    "rounds after the last": (fault(**{**DROP, "rounds": [5, 41]}), "rounds: 41, but the run has 40 rounds"),
    "no chance": (fault(**{**DROP, "probability": 0}), "probability: expected 'float' > 0.0"),
    "more than sure": (fault(**{**DROP, "probability": 1.1}), "probability: expected 'float' <= 1.0"),
    "not a number": (fault(**{**DROP, "probability": float("nan")}), "probability: expected 'float' > 0.0"),
    "one part": (fault(**{**CUT, "parts": [["0"]]}), "parts: must be two or more lists"),
    "empty part": (fault(**{**CUT, "parts": [["0"], []]}), "parts: must be two or more lists"),
    "unknown attack": (
        fault(**{**ATTACK, "attack": "sign"}),
        "fault 1 (attack): attack: 'sign' is unknown; choose one of sign-flip, a-little-is-enough",
    ),
    "attack of no strength": (fault(**ATTACK, scale=0.0), "scale: 0.0 must be a number above 0"),
    "attack of no number": (fault(**ATTACK, scale=float("inf")), "scale: inf must be a number above 0"),
    "labels by a scale": (
        fault(**{**ATTACK, "attack": "label-flip"}, scale=2.0),
        "scale: 2.0, but label-flip has none",
    ),
    "in two parts": (fault(**{**CUT, "parts": [["0"], ["0"]]}), "parts: a node can be in one part only"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as found:
        read(tmp_path, text)
    line = str(found.value)
    assert line.startswith(f"--faults {tmp_path / 'faults.toml'}: ")
    assert words in line
    assert "\n" not in line
    assert "`" not in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (fault(kind="kill", peer="hub", round=3), "a coordinator can only be killed, for good"),
        (
            fault(kind="kill", peer="hub", round=3, at="evaluate", restart=5),
            "a coordinator can only be killed, for good",
        ),
        (fault(**PAUSE), "clients cannot be paused; kill one, with restart"),
        (fault(kind="attack", peer="hub", rounds=[1, 2], attack="sign-flip"), "a coordinator does not attack"),
    ],
)
def test_what_is_refused_of_a_coordinator(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as found:
        read(tmp_path, text, [*NAMES, "hub"], "hub")
    assert words in str(found.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for path, words in [("none", "No such file"), (".", "cannot be read"), ("latin", "not TOML")]:
        with pytest.raises(ConfigError, match=words):
            load_faults(tmp_path / path, 0)


def test_what_a_script_answers(tmp_path: Path) -> None:
    text = fault(**KILL, restart=15) + fault(kind="kill", peer="3", round=20, at="evaluate") + fault(**CUT)
    script = read(tmp_path, text + fault(**{**CUT, "rounds": [8, 9], "parts": [["6"], ["7"]]}))
    assert script.seed == 3, "the run's, for a script without one"
    assert script.victims() == {3}
    assert script.returns_of(3) == {15}
    assert script.returns_of(2) == frozenset()
    assert script.barrier_rounds([3]) == {9, 20}, "the round before one that it dies in before its exchange"
    assert [round for round in range(1, 41) if script.is_absent(3, round)] == [*range(11, 15), *range(21, 41)]
    assert script.cuts(4) == frozenset()
    assert script.cuts(5) == {(0, 2), (0, 3), (1, 2), (1, 3)}, "peers in no part keep all their edges"
    assert script.cuts(8) == {(0, 2), (0, 3), (1, 2), (1, 3), (6, 7)}
    assert script.cuts(10) == frozenset()


def test_equal_scripts_are_equal_and_others_are_not(tmp_path: Path) -> None:
    texts = [fault(**KILL), fault(**KILL, at="train"), fault(**KILL, at="start"), "seed = 4\n" + fault(**KILL)]
    same, explicit, other, seeded = (read(tmp_path, text).text() for text in texts)
    assert same == explicit
    assert len({same, other, seeded}) == 3


def test_faults_of_edges_that_a_graph_has_not(tmp_path: Path) -> None:
    far = {**DROP, "edge": ["0", "4"]}
    apart = {**CUT, "parts": [["0"], ["4"]]}
    script = read(tmp_path, fault(**DROP) + fault(**far) + fault(**CUT) + fault(**apart))
    ring = make_topology("ring", 8)
    assert len(idle_faults(script, ring.graph.has_edge)) == 2
    assert idle_faults(script, make_topology("complete", 8).graph.has_edge) == []


def message(kind: wire.Kind, round: int = 5, body: bytes = b"") -> wire.Message:
    codec = "fp32" if body else ""
    return wire.Message(wire.Header(wire.VERSION, "r", kind, 0, round, codec, "", "x" * bool(body), 0, len(body)), body)


def play(script: FaultScript, kinds: list[wire.Kind], round: int = 5) -> list[bool | None]:
    """Fate of messages from peer 0 to peer 1.

    True: delivered, False: refused, None: lost.
    """
    hub = MemoryHub()
    near, far = MemoryTransport(hub, "near"), MemoryTransport(hub, "far")
    faulty = Conditioner(near, ScriptedFaults(script, 0, lambda: round))
    faulty.connect({1: "far"}, 64)
    fates: list[bool | None] = []
    for kind in kinds:
        faulty.send(1, message(kind, round, b"1234" if kind == "chunk" else b""))
        events = far.poll(0)
        assert len(events) <= 1
        assert all(isinstance(event, Received | Refused) for event in events)
        fates.append(isinstance(events[0], Received) if events else None)
    faulty.close()
    return fates


def test_what_happens_to_messages_is_drawn_from_where_they_are(tmp_path: Path) -> None:
    both = fault(**{**DROP, "probability": 0.3}) + fault(**{**DROP, "kind": "corrupt", "probability": 0.3})
    script = read(tmp_path, both)
    kinds: list[wire.Kind] = ["chunk", "ack"] * 500
    fates = play(script, kinds)
    assert fates == play(script, kinds), "the same messages, the same fates"
    assert fates != play(script, kinds, round=6)
    assert fates != play(read(tmp_path, "seed = 4\n" + both), kinds)
    assert play(script, kinds, round=9) == [True] * 1000, "only in its rounds"
    count = Counter(fates)
    assert 240 < count[None] < 360, "three of ten are lost"
    assert 150 < count[False] < 270, "and of the others three of ten are damaged: 210, drawn apart"


@pytest.mark.parametrize("kind", ["hello", "edge_down", "goodbye"])
@pytest.mark.parametrize("harm", ["drop", "corrupt"])
def test_greetings_and_goodbyes_are_never_lost(tmp_path: Path, kind: wire.Kind, harm: str) -> None:
    script = read(tmp_path, fault(**{**DROP, "kind": harm, "probability": 1.0}))
    assert play(script, [kind, "ack", kind]) == [True, None if harm == "drop" else False, True]


def test_a_damaged_message_is_refused_whatever_it_is(tmp_path: Path) -> None:
    script = read(tmp_path, fault(**{**DROP, "kind": "corrupt", "probability": 1.0}))
    kinds: list[wire.Kind] = ["offer", "grant", "chunk", "ack", "heartbeat"]
    assert play(script, kinds) == [False] * 5


def test_delayed_messages_keep_their_order(tmp_path: Path) -> None:
    hub = MemoryHub()
    near, far = MemoryTransport(hub, "near"), MemoryTransport(hub, "far")
    rounds = iter([5, 8, 9, 9])  # the last two are sent when the delay is over
    delay = {"kind": "delay", "edge": ["1", "0"], "rounds": [5, 8], "seconds": 0.05}
    script = read(tmp_path, fault(**delay))
    faulty = Conditioner(near, ScriptedFaults(script, 0, lambda: next(rounds)))
    faulty.connect({1: "far"}, 64)
    for number in range(1, 5):
        faulty.send(1, message("ack", number))
    assert far.poll(0) == [], "those sent at once must not overtake those that are under way"
    found: list[int] = []
    while len(found) < 4:
        faulty.poll(0.01)
        found += [event.message.header.round for event in far.poll(0) if isinstance(event, Received)]
    assert found == [1, 2, 3, 4]


def test_a_message_behind_a_delayed_one_is_due_no_earlier(tmp_path: Path) -> None:
    """Otherwise a transport would poll without pause until the delayed one is sent."""
    rounds = iter([5, 9])
    script = read(tmp_path, fault(kind="delay", edge=["1", "0"], rounds=[5, 8], seconds=3.0))
    faulty = Conditioner(
        MemoryTransport(MemoryHub(), "near"), ScriptedFaults(script, 0, lambda: next(rounds)), lambda: 7
    )
    faulty.connect({1: "far"}, 64)
    for number in (1, 2):
        faulty.send(1, message("ack", number))
    assert faulty.next_due == 10.0


CHILD = """
import sys, threading
from pathlib import Path
from p2pfl.faults import check_faults, load_faults
from p2pfl.faults.injector import FaultInjector
folder = Path(sys.argv[1])
script = check_faults(load_faults(folder / "faults.toml", 0), "", list("01234567"), 40, None, False)
injector = FaultInjector(script, 3, folder / "faults.fired")
def work():
    for point in ("start", "train", "exchange", "evaluate", "checkpoint"):
        print(point, flush=True)
        injector.reach(point, 10)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def child(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)


@pytest.mark.processes
def test_a_kill_fires_once_at_its_point_of_its_round(tmp_path: Path) -> None:
    read(tmp_path, fault(**KILL, at="exchange"))
    first = child(tmp_path)
    assert first.communicate(timeout=200)[0].split() == ["start", "train", "exchange"]
    assert first.returncode == -signal.SIGKILL
    assert fired(tmp_path / FIRED_FILE) == [0]
    second = child(tmp_path)
    assert second.communicate(timeout=200)[0].split()[-1] == "checkpoint"
    assert second.returncode == 0


@pytest.mark.processes
def test_a_freeze_stops_the_thread_that_reached_it(tmp_path: Path) -> None:
    read(tmp_path, fault(**PAUSE, at="train"))
    process = child(tmp_path)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["start", "train"]
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        ready, _, _ = select.select([process.stdout], [], [], 0)
        assert not ready, "it must not have gone a step further"
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read().split() == ["exchange", "evaluate", "checkpoint"]
        assert process.wait(200) == 0
    finally:
        process.kill()
        process.wait()


def test_others_and_other_rounds_are_left_alone(tmp_path: Path) -> None:
    script = read(tmp_path, fault(**KILL))
    for index, round in ((2, 10), (3, 9), (3, 11)):
        injector = FaultInjector(script, index, tmp_path / FIRED_FILE)
        injector.reach("train", round)
        assert not injector.waits_for("train", round)
    assert FaultInjector(script, 3, tmp_path / FIRED_FILE).waits_for("train", 10)
    assert fired(tmp_path / FIRED_FILE) == []


def test_what_is_no_number_among_the_faults_carried_out_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "faults.fired").write_bytes(b"0\n\xff\xfe -1 1e300 x " + b"9" * 5000 + b"\n1\n")
    assert fired(tmp_path / FIRED_FILE) == [0, 1]
