"""Terminal display of a run: a live table, or plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import IO, Self, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from p2pfl.model.sketches import Vector
from p2pfl.run.records import RoundRecord
from p2pfl.ui.state import RoundCollector, RoundRow, RunInfo, StepProgress, count_text, row_cells, row_line
from p2pfl.ui.stream import SafeStream
from p2pfl.util.text import visible
from p2pfl.util.units import clock_text

REFRESHES_PER_SECOND = 4  # few, as peers need the cores
TABLE_ROWS = 12
LAST_ROWS = 60  # of the final table
_OTHER_LINES = 10  # title, headings, bars and the last messages
_PLAIN_SECONDS = 5.0  # between plain lines about the same preparation
_QUIET_SECONDS = 60.0  # without a line, after which a plain display reports the progress of training

_TRAINING, _CONSENSUS = "training", "consensus phase"


class Display:
    """Display of a run on one stream, an observer of its launch.

    Methods are cheap, may be called in any order, and never raise. As a context manager it owns the live part of the
    terminal.
    """

    def __init__(
        self,
        info: RunInfo,
        stream: SafeStream,
        *,
        live: bool,
        clock: Callable[[], float] = time.monotonic,
        footer: Callable[[], RenderableType] | None = None,
    ) -> None:
        self._info = info
        self._stream = stream
        self._clock = clock
        self._footer = footer
        self._rounds = RoundCollector(info)
        self._steps = StepProgress(len(info.peers) - (info.coordinator is not None), info.steps_per_peer)
        self._rows: tuple[RoundRow, ...] = ()  # replaced, never changed: the refreshing thread reads it
        self._closing = False
        self._last_report: dict[str, float] = {}  # preparation -> time of its last plain line
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
            get_renderable=self.render,
            refresh_per_second=REFRESHES_PER_SECOND,
            # Stray prints go above the table, unless they are redirected.
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
        """Print the final table; later lines come below it."""
        self._closing = True
        if self._live and self._live.is_started:
            self._live.stop()
        self._live = None

    def info(self, text: str) -> None:
        """Print a line that stays."""
        self._line(text)

    def warn(self, text: str) -> None:
        """Print a warning, highlighted."""
        self._line(f"warning: {text}", "bold yellow")

    def progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of a preparation, such as a download; total 0: unknown."""
        if self._live:
            finished = done >= total > 0
            self._bar(what, done, total, count_text(done, total), visible=not finished)
            return
        now = self._clock()
        over = done >= total > 0
        if over and self._last_report.get(what) == float("inf"):
            return
        if over or now - self._last_report.get(what, float("-inf")) >= _PLAIN_SECONDS:
            self._last_report[what] = float("inf") if over else now
            self._line(f"{what} {count_text(done, total)}".rstrip())

    def expect(self, steps_per_peer: int, consensus_rounds: int) -> None:
        """Set the optimizer steps of one peer, and the rounds of mixing only."""
        self._steps.total = steps_per_peer
        self._info = replace(self._info, consensus_rounds=consensus_rounds)
        if self._live:
            self._training_bar()

    def restore(self, recorded: Iterable[tuple[int, RoundRecord, Vector]]) -> None:
        """Add earlier rounds of a resumed run: (peer, record, sketch), in any order."""
        for peer, record, sketch in sorted(recorded, key=lambda item: item[1].round):
            self._rows += tuple(self._rounds.add(peer, record, sketch))
        if self._rows:
            self._line(f"already recorded: rounds up to {self._rows[-1].round}")

    def step(self, peer: int, steps: int) -> None:
        """Report the optimizer steps of a peer so far."""
        now = self._clock()
        self._steps.report(peer, steps, now)
        if self._live:
            self._training_bar()
        elif now - self._last_line >= _QUIET_SECONDS:
            share = self._steps.share()
            done = f"{sum(self._steps.steps.values()):,} steps" if share is None else f"{100 * share:.0f} %"
            self._line(f"{_TRAINING} {done}  {self._left()}".rstrip())

    def round(self, peer: int, record: RoundRecord, sketch: Vector) -> None:
        """Report a peer's finished round; a round finished by all becomes a row."""
        trains = peer != self._info.coordinator
        if self._steps.total is None and record.phase == "train" and trains:
            # All rounds have equally many steps; `expect` gives an exact total.
            self._steps.total = record.steps * self._info.rounds // record.round
        if trains:
            self._steps.report(peer, record.steps, self._clock())
        for row in self._rounds.add(peer, record, sketch):
            self._show(row)

    def _show(self, row: RoundRow) -> None:
        if not self._live:
            self._line(row_line(self._info, row, self._steps.seconds_left(self._clock())))
            return
        # The consensus phase has a single, updated row, so that the rows of training remain visible.
        kept = self._rows[:-1] if self._rows and self._rows[-1].phase == row.phase == "consensus" else self._rows
        self._rows = (*kept, row)
        if row.phase == "train":
            self._training_bar()
        else:
            done, total = row.round - self._info.rounds, self._info.consensus_rounds
            self._bar(_CONSENSUS, done, total, count_text(done, total))

    def _training_bar(self) -> None:
        share = self._steps.share()
        self._bar(_TRAINING, share or 0.0, 0.0 if share is None else 1.0, self._left())

    def _left(self) -> str:
        seconds = self._steps.seconds_left(self._clock())
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

    def render(self) -> Group:
        """Content of the live part of the terminal."""
        others = _OTHER_LINES + (self._footer is not None)
        limit = LAST_ROWS if self._closing else max(min(TABLE_ROWS, self._console.height - others), 1)
        rows = [row_cells(self._info, row) for row in self._rows[-limit:]]
        below = [] if self._footer is None or self._closing else [self._footer()]
        if not rows:
            return Group(self._bars, *below)
        count = len(self._info.peers)
        processes = f"{count - 1} clients" if self._info.coordinator is not None else f"{count} peer{'s' * (count > 1)}"
        title = visible(f"{self._info.mode}, {self._info.name}, {processes}", controls=True)
        table = Table(title=Text(title, "bold"), title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in rows[0]:
            table.add_column(name, justify="right", no_wrap=True, header_style="dim")
        for row in rows:
            table.add_row(*(Text(text) for text in row.values()))
        return Group(table, Text(), self._bars, *below)


def make_display(
    info: RunInfo,
    stream: IO[str] | None = None,
    *,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
    footer: Callable[[], RenderableType] | None = None,
) -> Display:
    """Display on `stream` (default: stdout): live on a terminal, else plain lines.

    `terminal` overrides the detection of a terminal; `clock` gives seconds. `footer` is the last line of the live part.
    """
    safe = SafeStream(sys.stdout if stream is None else stream)
    live = safe.isatty() if terminal is None else terminal
    dumb = Console(force_terminal=True).is_dumb_terminal  # TERM=dumb cannot move its cursor
    return Display(info, safe, live=live and not dumb, clock=clock, footer=footer)
