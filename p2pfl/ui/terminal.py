"""The display that the launcher drives: every method is cheap, may come in any order, and never raises."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from p2pfl.model.sketches import Vector
from p2pfl.run.records import RoundRecord
from p2pfl.ui.lines import cells, clock_text, count_text, line
from p2pfl.ui.state import Plan, Rounds, Row, Work
from p2pfl.ui.stream import SafeStream
from p2pfl.util.text import visible

REFRESHES_PER_SECOND = 4  # the peers need the cores
TABLE_ROWS = 12
LAST_ROWS = 60  # of the table that stays
_AROUND_TABLE = 10  # lines: its head, the bars, and room for the last messages
_PLAIN_SECONDS = 5.0  # between two plain lines about the same preparation
_QUIET_SECONDS = 60.0  # after so long without a line a plain display says that training goes on

_TRAINING, _CONSENSUS = "training", "consensus phase"


class Display:
    """Shows a run on one stream; as a context manager it owns the live part of the terminal."""

    def __init__(
        self, plan: Plan, stream: SafeStream, *, live: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._stream = stream
        self._clock = clock
        self._rounds = Rounds(plan)
        self._work = Work(len(plan.peers) - (plan.coordinator is not None), plan.steps_per_peer)
        self._rows: tuple[Row, ...] = ()  # replaced, never changed: the refreshing thread reads it
        self._closing = False
        self._said: dict[str, float] = {}  # what is being prepared -> when a plain line last said so
        self._last_line = clock()
        self._tasks: dict[str, TaskID] = {}
        self._console = Console(file=cast(IO[str], stream), force_terminal=live, highlight=False, markup=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
        )
        self._live = self._make_live() if live else None

    def _make_live(self) -> Live:
        return Live(
            console=self._console,
            get_renderable=self._picture,
            refresh_per_second=REFRESHES_PER_SECOND,
            # Stray prints go above the table, unless they were sent somewhere else.
            redirect_stdout=self._stream.shows(sys.stdout),
            redirect_stderr=self._stream.isatty() and sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the table, now with as many rounds as there are; what is said afterwards comes below it."""
        self._closing = True
        if self._live and self._live.is_started:
            self._live.stop()
        self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self._line(text)

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        self._line(f"warning: {text}", "bold yellow")

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a preparation is, such as a download in bytes or the peers started; total 0: unknown."""
        if self._live:
            finished = done >= total > 0
            self._bar(what, done, total, count_text(done, total), visible=not finished)
            return
        now = self._clock()
        over = done >= total > 0
        if over and self._said.get(what) == float("inf"):
            return
        if over or now - self._said.get(what, float("-inf")) >= _PLAIN_SECONDS:
            self._said[what] = float("inf") if over else now
            self._line(f"{what} {count_text(done, total)}".rstrip())

    def expect(self, steps_per_peer: int) -> None:
        """The optimizer steps of one peer in the whole run, once they are known."""
        self._work.total = steps_per_peer
        if self._live:
            self._training_bar()

    def restore(self, recorded: Iterable[tuple[int, RoundRecord, Vector]]) -> None:
        """What the peers of a resumed run had done before: (peer, record, sketch), in any order."""
        for peer, record, sketch in sorted(recorded, key=lambda item: item[1].round):
            self._rows += tuple(self._rounds.add(peer, record, sketch))
        if self._rows:
            self._line(f"recorded before: rounds up to {self._rows[-1].round}")

    def step(self, peer: int, steps: int) -> None:
        """A peer has done so many optimizer steps of the whole run."""
        now = self._clock()
        self._work.report(peer, steps, now)
        if self._live:
            self._training_bar()
        elif now - self._last_line >= _QUIET_SECONDS:
            share = self._work.share()
            done = f"{sum(self._work.steps.values()):,} steps" if share is None else f"{100 * share:.0f} %"
            self._line(f"{_TRAINING} {done}  {self._left()}".rstrip())

    def round(self, peer: int, record: RoundRecord, sketch: Vector) -> None:
        """A peer has finished a round; when all have, it becomes a row."""
        trains = peer != self._plan.coordinator
        if self._work.total is None and record.phase == "train" and trains:
            # Every round has as many steps; a launcher that knows better says so with `expect`.
            self._work.total = record.steps * self._plan.rounds // record.round
        if trains:
            self._work.report(peer, record.steps, self._clock())
        for row in self._rounds.add(peer, record, sketch):
            self._show(row)

    def _show(self, row: Row) -> None:
        if not self._live:
            self._line(line(self._plan, row, self._work.seconds_left(self._clock())))
            return
        # The consensus phase takes one line, which moves on, so that it does not push the training out of sight.
        kept = self._rows[:-1] if self._rows and self._rows[-1].phase == row.phase == "consensus" else self._rows
        self._rows = (*kept, row)
        if row.phase == "train":
            self._training_bar()
        else:
            done, total = row.round - self._plan.rounds, self._plan.consensus_rounds
            self._bar(_CONSENSUS, done, total, count_text(done, total))

    def _training_bar(self) -> None:
        share = self._work.share()
        self._bar(_TRAINING, share or 0.0, 0.0 if share is None else 1.0, self._left())

    def _left(self) -> str:
        seconds = self._work.seconds_left(self._clock())
        return "" if seconds is None else f"{clock_text(seconds)} left"

    def _bar(self, what: str, done: float, total: float, note: str, visible: bool = True) -> None:
        end = total if total > 0 else None
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=end, note=note, visible=visible)
        self._bars.update(self._tasks[what], completed=done, total=end, note=note, visible=visible)

    def _line(self, text: str, style: str = "") -> None:
        self._last_line = self._clock()
        text = visible(text, controls=True)
        if self._live:
            self._console.print(Text(text, style), soft_wrap=True)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _picture(self) -> Group:
        """What the live part of the terminal shows now."""
        room = LAST_ROWS if self._closing else max(min(TABLE_ROWS, self._console.height - _AROUND_TABLE), 1)
        rows = [cells(self._plan, row) for row in self._rows[-room:]]
        if not rows:
            return Group(self._bars)
        crowd = len(self._plan.peers)
        who = f"{crowd - 1} clients" if self._plan.coordinator is not None else f"{crowd} peer{'s' * (crowd > 1)}"
        title = visible(f"{self._plan.mode}, {self._plan.name}, {who}", controls=True)
        table = Table(title=Text(title, "bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in rows[0]:
            table.add_column(name, justify="right", no_wrap=True, header_style="dim")
        for row in rows:
            table.add_row(*(Text(text) for text in row.values()))
        return Group(table, Text(), self._bars)


def make_display(
    plan: Plan,
    stream: IO[str] | None = None,
    *,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Display:
    """A display on `stream` (default: stdout): live on a terminal, plain lines elsewhere.

    `terminal` overrules what the stream says about itself; `clock` gives seconds.
    """
    safe = SafeStream(sys.stdout if stream is None else stream)
    live = safe.isatty() if terminal is None else terminal
    dumb = Console(force_terminal=True).is_dumb_terminal  # TERM=dumb cannot move its cursor
    return Display(plan, safe, live=live and not dumb, clock=clock)
