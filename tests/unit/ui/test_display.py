from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tests.support.runs import STEPS, consensus_record, train_record, vectors_apart

from p2pfl.model.sketches import SKETCH_BUCKETS, sketch
from p2pfl.run.records import RoundRecord
from p2pfl.topology import make_topology
from p2pfl.ui import Display, RunInfo, make_display
from p2pfl.ui.state import RoundCollector, count_text
from p2pfl.ui.terminal import LAST_ROWS, TABLE_ROWS
from p2pfl.util.units import bytes_text

TOPOLOGY = make_topology("ring", 4)
ROUNDS = 20
INFO = RunInfo(
    mode="gossip",
    name="ring-4",
    peers=TOPOLOGY.names,
    rounds=ROUNDS,
    consensus_rounds=3,
    run_dir=Path("runs/x"),
    batch_size=32,
    steps_per_peer=STEPS * ROUNDS,
)
EMPTY = np.zeros(SKETCH_BUCKETS, np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenPipe(io.StringIO):
    """A stream whose reader is gone; it counts the attempts to write."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise BrokenPipeError

    def isatty(self) -> bool:
        return True


def finish(display: Display, number: int, peers: range = range(4), sketches: list[np.ndarray] | None = None) -> None:
    for peer in peers:
        record = train_record(TOPOLOGY, peer, number, ROUNDS, 1_000_000)
        display.round(peer, record, sketches[peer] if sketches else EMPTY)


def plain(clock: Clock | None = None, info: RunInfo = INFO) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return make_display(info, stream, clock=clock or Clock()), stream


def test_a_round_becomes_one_line_when_all_peers_have_finished_it() -> None:
    display, stream = plain()
    sketches = [sketch(vector, 7) for vector in vectors_apart(4, 0.5)]
    with display:
        finish(display, 2, range(3), sketches)
        assert stream.getvalue() == ""
        finish(display, 2, range(3, 4), sketches)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("round 2/20  loss 1.806  accuracy 46.8 % (worst 46.0 %)")
    distance = float(line.split("consensus distance ")[1].split()[0])
    assert distance == pytest.approx(0.5, rel=0.07)
    assert "8 MB sent" in line


def test_an_accuracy_on_the_validation_set_says_so() -> None:
    display, stream = plain()
    with display:
        for peer in range(4):
            record = train_record(TOPOLOGY, peer, 2, ROUNDS, 1_000_000)
            display.round(peer, msgspec.structs.replace(record, evaluated_on="validation"), EMPTY)
    assert "accuracy 46.8 % (validation) (worst 46.0 %)" in stream.getvalue()


def test_a_round_is_complete_without_its_missing_peers() -> None:
    display, stream = plain()
    with display:
        for number in (2, 3):
            for peer in (0, 2, 3):
                record = train_record(TOPOLOGY, peer, number, ROUNDS, 1_000_000)
                absent = ["1"] if peer != 3 else None  # no neighbor of 1
                display.round(peer, msgspec.structs.replace(record, absent=absent), EMPTY)
                assert (f"round {number}/20" in stream.getvalue()) == (peer == 3)
            finish(display, number, range(1, 2))  # it was not so far away after all, and what it sent counts
    assert "14 MB sent" in stream.getvalue()
    assert stream.getvalue().count("round 2/20") == stream.getvalue().count("round 3/20") == 1


def test_a_peer_that_only_one_other_misses_is_waited_for() -> None:
    display, stream = plain()
    with display:
        for peer, absent in enumerate([None, ["2"], ["1"], None]):  # the link between 1 and 2 is broken
            assert stream.getvalue() == ""
            record = train_record(TOPOLOGY, peer, 2, ROUNDS, 1_000_000)
            display.round(peer, msgspec.structs.replace(record, absent=absent), EMPTY)
    assert "8 MB sent" in stream.getvalue()


def test_late_rounds_are_shown_in_order() -> None:
    display, stream = plain()
    with display:
        finish(display, 2, range(3))
        finish(display, 3)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["2/20", "3/20"]


def test_throughput_and_bytes_are_those_of_the_swarm() -> None:
    display, stream = plain()
    for number in (1, 2):
        finish(display, number)
    first, second = stream.getvalue().splitlines()
    speed = f"{round(4 * 32 * STEPS / 3.0):,} samples/s"
    assert speed in first
    assert speed in second
    assert "8 MB sent" in first
    assert "16 MB sent" in second


def test_resumed_rounds_start_later() -> None:
    display, stream = plain()
    finish(display, 17)
    assert stream.getvalue().startswith("round 17/20 ")
    assert f"{round(4 * 32 * STEPS / 3.0):,} samples/s" in stream.getvalue()


def test_time_left_follows_the_speed_since_the_start() -> None:
    clock = Clock()
    display, stream = plain(clock)
    for peer in range(4):
        display.step(peer, 100)  # resumed in the middle: these took no time here
    clock.now += 30.0
    for peer in range(4):
        display.step(peer, 110)
    finish(display, 11)
    assert stream.getvalue().rstrip().endswith("4:30 left")


def test_total_steps_are_learned_from_the_first_round() -> None:
    clock = Clock()
    info = RunInfo("gossip", "ring-4", TOPOLOGY.names, ROUNDS, 3, Path("x"), 32)
    display, stream = plain(clock, info)
    for peer in range(4):
        display.step(peer, 0)
    clock.now += 10.0
    finish(display, 1)
    assert stream.getvalue().rstrip().endswith("3:10 left")


def test_expected_steps_override_the_estimate() -> None:
    clock = Clock()
    display, stream = plain(clock)
    display.expect(2 * STEPS, 0)
    for peer in range(4):
        display.step(peer, 0)
    clock.now += 10.0
    finish(display, 1)
    assert stream.getvalue().rstrip().endswith("0:10 left")


def test_consensus_phase_is_its_own_stage() -> None:
    display, stream = plain()
    mix(display, 1, 2, 3)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["mix 1/3", "mix 2/3", "mix 3/3"]
    assert "consensus model 91.2 %" in lines[2]
    assert "consensus model" not in lines[1]
    assert "samples/s" not in lines[2]


def test_preparation_is_throttled_and_its_end_printed_once() -> None:
    clock = Clock()
    display, stream = plain(clock)
    for done in range(9):
        display.progress("starting peers", done, 8)
        clock.now += 1.0
    display.progress("starting peers", 8, 8)
    display.progress("downloading", 50_000, 100_000)
    display.progress("decoding", 7, 0)
    assert stream.getvalue().splitlines() == [
        "starting peers 0/8",
        "starting peers 5/8",
        "starting peers 8/8",
        "downloading 50 %",
        "decoding",
    ]


def test_a_long_round_is_not_silent() -> None:
    clock = Clock()
    display, stream = plain(clock)
    display.step(0, 0)
    clock.now += 59.0
    display.step(0, 10)
    assert stream.getvalue() == ""
    clock.now += 2.0
    display.step(0, 40)
    assert stream.getvalue().startswith("training 5 %")
    assert len(stream.getvalue().splitlines()) == 1


def test_sketches_are_forgotten_even_when_a_peer_is_lost() -> None:
    rounds = RoundCollector(INFO)
    rows = []
    for number in range(1, 200):
        for peer in range(3):
            rows += rounds.add(peer, train_record(TOPOLOGY, peer, number, ROUNDS, 1_000_000), EMPTY)
    assert len(rounds.open) <= 64
    assert [row.round for row in rows] == list(range(1, 200 - len(rounds.open)))
    assert rounds.add(3, train_record(TOPOLOGY, 3, 1, ROUNDS, 1_000_000), EMPTY) == []
    assert 1 not in rounds.open


def test_diverged_numbers_do_not_raise() -> None:
    display, stream = plain()
    finish(display, 1, sketches=[np.full(SKETCH_BUCKETS, np.inf, np.float32)] * 4)
    assert "consensus distance" not in stream.getvalue()


def live() -> tuple[Display, Terminal, Clock]:
    stream, clock = Terminal(), Clock()
    return make_display(INFO, stream, terminal=True, clock=clock), stream, clock


@pytest.fixture
def good_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)


def picture(display: Display) -> str:
    """Content of the live part, without its refreshing thread."""
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(display.render())
    return captured.get()


def rows_of(text: str, info: RunInfo = INFO) -> list[str]:
    """First cells of the table's rows: such as 3/20, or mix 2/3."""
    return re.findall(rf"^ *(mix \d+/\d+|\d+/{info.rounds}) ", text, flags=re.MULTILINE)


def numbered(first: int, last: int) -> list[str]:
    return [f"{number}/{ROUNDS}" for number in range(first, last + 1)]


def mix(display: Display, *numbers: int) -> None:
    last = train_record(TOPOLOGY, 0, ROUNDS, ROUNDS, 1)
    for k in numbers:
        for peer in range(4):
            display.round(peer, consensus_record(TOPOLOGY, peer, k, last, k == 3), EMPTY)


@pytest.mark.usefixtures("good_terminal")
def test_live_table_shows_the_last_rounds_and_all_of_them_at_the_end() -> None:
    display, stream, clock = live()
    with display:
        display.info("[bold]kept as it is[/bold]")
        for number in range(1, 16):
            clock.now += 1.0
            finish(display, number)
        assert rows_of(picture(display)) == numbered(15 - TABLE_ROWS + 1, 15)
        display.warn("peer 3 is slow")
    text = stream.getvalue()
    assert "[bold]kept as it is[/bold]" in text
    assert "warning: peer 3 is slow" in text
    final = text[text.rindex("gossip, ring-4, 4 peers") :]
    assert rows_of(final) == numbered(1, 15)
    assert "75%" in final
    assert "0:05 left" in final


@pytest.mark.usefixtures("good_terminal")
def test_live_table_is_as_long_as_the_window_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for lines, first in (("14", 12), ("3", 15)):
        monkeypatch.setenv("LINES", lines)
        display, _, _ = live()
        for number in range(1, 16):
            finish(display, number)
        assert rows_of(picture(display)) == numbered(first, 15)


@pytest.mark.usefixtures("good_terminal")
def test_table_that_stays_ends_somewhere() -> None:
    info = dataclasses.replace(INFO, rounds=LAST_ROWS + 5, steps_per_peer=None)
    stream = Terminal()
    with make_display(info, stream, terminal=True, clock=Clock()) as display:
        for number in range(1, info.rounds + 1):
            finish(display, number)
    final = stream.getvalue()[stream.getvalue().rindex("gossip, ring-4") :]
    assert rows_of(final, info) == [f"{number}/{info.rounds}" for number in range(6, info.rounds + 1)]


@pytest.mark.usefixtures("good_terminal")
def test_consensus_phase_takes_one_row_which_moves_on() -> None:
    display, _, _ = live()
    with display:
        for number in range(1, ROUNDS + 1):
            finish(display, number)
        mix(display, 1)
        assert rows_of(picture(display)) == [*numbered(ROUNDS - TABLE_ROWS + 2, ROUNDS), "mix 1/3"]
        mix(display, 2, 3)
        assert rows_of(picture(display)) == [*numbered(ROUNDS - TABLE_ROWS + 2, ROUNDS), "mix 3/3"]
    assert rows_of(picture(display)) == [*numbered(1, ROUNDS), "mix 3/3"]


def test_the_number_of_consensus_rounds_may_be_known_later() -> None:
    """It depends on the sizes of the shards under --mixing samples."""
    display, stream = plain(info=dataclasses.replace(INFO, consensus_rounds=0))
    display.expect(STEPS, 6)
    mix(display, 1)
    assert "mix 1/6" in stream.getvalue()


@pytest.mark.usefixtures("good_terminal")
def test_expected_steps_show_the_training_bar_at_once() -> None:
    display, _, _ = live()
    assert "training" not in picture(display)
    display.expect(40, 0)
    shown = picture(display)
    assert "training" in shown
    assert " 0%" in shown
    for peer in range(4):
        display.step(peer, 10)
    assert "25%" in picture(display)


def recorded(rounds: int, sketches: list[np.ndarray] | None = None) -> list[tuple[int, RoundRecord, np.ndarray]]:
    """As read from the run directory: one peer's records after the other's."""
    return [
        (peer, train_record(TOPOLOGY, peer, number, ROUNDS, 1_000_000), sketches[peer] if sketches else EMPTY)
        for peer in range(4)
        for number in range(1, rounds + 1)
    ]


def test_restored_rounds_count_but_are_not_printed_again() -> None:
    clock = Clock()
    display, stream = plain(clock)
    one_ahead = (2, train_record(TOPOLOGY, 2, 6, ROUNDS, 1_000_000), EMPTY)
    display.restore([*recorded(5), one_ahead])
    assert stream.getvalue() == "already recorded: rounds up to 5\n"
    for peer in range(4):
        display.step(peer, 5 * STEPS)
    clock.now += 10.0
    finish(display, 6)
    (line,) = stream.getvalue().splitlines()[1:]
    assert line.startswith("round 6/20 ")
    assert "48 MB sent" in line
    assert f"{round(4 * 32 * STEPS / 3.0):,} samples/s" in line
    assert line.endswith("2:20 left")  # what was done before took no time here


def test_many_rounds_are_restored_in_any_order() -> None:
    display, stream = plain(info=dataclasses.replace(INFO, rounds=200))
    display.restore(reversed(recorded(150)))
    assert stream.getvalue() == "already recorded: rounds up to 150\n"
    finish(display, 151)
    assert f"{bytes_text(151 * 8_000_000)} sent" in stream.getvalue()


def test_restoring_no_rounds_prints_nothing() -> None:
    display, stream = plain()
    display.restore([])
    display.restore(recorded(1)[:3])
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("good_terminal")
def test_restored_rounds_are_rows_of_the_live_table() -> None:
    display, stream, _ = live()
    sketches = [sketch(vector, 7) for vector in vectors_apart(4, 0.5)]
    with display:
        display.restore(iter(recorded(3, sketches)))
        finish(display, 4)
    text = stream.getvalue()
    assert "already recorded: rounds up to 3" in text
    final = text[text.rindex("gossip, ring-4") :]
    assert rows_of(final) == numbered(1, 4)
    sent = [line.split()[-2] for line in final.splitlines() if rows_of(line)]
    assert sent == ["8", "16", "24", "32"]
    assert re.search(r"^ *3/20 .* 0\.[45]\d+ ", final, flags=re.MULTILINE)


@pytest.mark.usefixtures("good_terminal")
def test_live_consensus_phase_and_preparation() -> None:
    display, stream, _ = live()
    with display:
        display.progress("starting peers", 3, 4)
        display.progress("starting peers", 4, 4)
        finish(display, ROUNDS)
        mix(display, 3)
    final = stream.getvalue()[stream.getvalue().rindex("gossip, ring-4") :]
    assert "mix 3/3" in final
    assert "91.2 %" in final
    assert "consensus phase" in final
    assert "starting peers" not in final


@pytest.mark.usefixtures("good_terminal")
def test_terminal_is_recognized_and_a_dumb_one_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for term, table in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", term)
        stream = Terminal()
        with make_display(INFO, stream) as display:
            finish(display, 1)
        assert ("gossip, ring-4, 4 peers" in stream.getvalue()) == table
        assert ("round 1/20" in stream.getvalue()) != table


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.usefixtures("good_terminal")
@pytest.mark.parametrize("stream", [BrokenPipe(), closed_stream()], ids=["broken pipe", "closed"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_reader_that_went_away_never_ends_the_run(stream: io.StringIO, terminal: bool) -> None:
    with make_display(INFO, stream, terminal=terminal) as display:
        display.info("hello")
        display.progress("starting peers", 1, 4)
        display.step(0, 1)
        finish(display, 1)
        display.warn("odd")
    display.close()
    assert stream.closed or stream.attempts > 0, "it was written to"  # type: ignore[attr-defined]


def test_text_that_the_stream_cannot_encode_is_replaced() -> None:
    raw = io.BytesIO()
    display = make_display(INFO, io.TextIOWrapper(raw, encoding="ascii"))
    display.info("São Paulo …")
    display.info("next")
    assert raw.getvalue() == b"S?o Paulo ?\nnext\n"


@pytest.mark.usefixtures("good_terminal")
def test_every_method_may_come_before_the_start_and_after_the_end() -> None:
    display, stream, _ = live()
    for _ in range(2):
        display.step(1, 5)
        display.progress("preparing", 1, 2)
        finish(display, 1)
        display.info("before or after")
        with display:
            pass
    assert stream.getvalue().count("before or after") == 2


@pytest.mark.parametrize(("done", "total", "text"), [(3, 8, "3/8"), (5, 0, ""), (25_000, 100_000, "25 %")])
def test_count_text(done: int, total: int, text: str) -> None:
    assert count_text(done, total) == text


def test_a_resumed_run_whose_sketches_are_cut_shows_its_rounds_without_a_distance(tmp_path: Path) -> None:
    rounds = RoundCollector(RunInfo("gossip", "net", ("0", "1"), 2, 0, tmp_path, 8))
    record = train_record(make_topology("path", 2), 0, 1, 2, 100)
    assert rounds.add(0, record, np.zeros(4096, np.float32)) == []
    (row,) = rounds.add(1, record, np.zeros(0, np.float32))
    assert (row.round, row.distance) == (1, None)


def test_a_footer_is_the_last_line_of_the_live_part_only() -> None:
    stream = Terminal()
    display = make_display(INFO, stream, terminal=True, footer=lambda: "all runs: 1 of 3")
    console = Console(file=io.StringIO(), width=100)
    console.print(display.render())
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[-1] == "all runs: 1 of 3"
    with display:
        display.close()
        console.print(display.render())
    assert console.file.getvalue().count("all runs") == 1
