"""The wait for the data set, which has no limit and so is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launch.prepare import SILENT_SECONDS, prepare_data
from p2pfl.modes import assign_roles
from p2pfl.node import messages


class Link:
    """Link with scripted messages, each after some minutes of silence.

    None is its end.
    """

    def __init__(self, *reports: tuple[int, messages.FromWorker | None]) -> None:
        self._steps: Iterator[messages.FromWorker | str | None] = iter(
            [step for minutes, report in reports for step in [*["silence"] * minutes, report]]
        )
        self._next: messages.FromWorker | str | None = None
        self.is_closed = False

    def poll(self, seconds: float) -> bool:
        assert seconds == SILENT_SECONDS
        self._next = next(self._steps)
        return self._next != "silence"

    def recv_bytes(self, _limit: int) -> bytes:
        if not isinstance(self._next, messages.FromWorker):
            raise EOFError
        return messages.encode(self._next)

    def close(self) -> None:
        self.is_closed = True


def prepare(folder: Path, link: Link) -> tuple[list[str], Any]:
    """Lines shown during a preparation, and the error that ends it."""
    said: list[str] = []
    process = SimpleNamespace(join=lambda _: True, close=lambda: None, kill=lambda: None, exit_text=lambda: "killed")
    server: Any = SimpleNamespace(start=lambda *_: (process, link), folder=SimpleNamespace(path=folder))
    observer: Any = SimpleNamespace(info=said.append, progress=lambda *step: said.append("{} {}/{}".format(*step)))
    config = RunConfig.of(dataset="digits", model="vgg11")
    with pytest.raises(P2PFLError) as caught:
        prepare_data(config, assign_roles(config, make_topology("ring", 3)), folder, observer, server)
    assert link.is_closed
    return said, caught.value


def test_a_wait_for_data_without_progress_is_told_once_a_minute(tmp_path: Path) -> None:
    progress = messages.Prepared("decoding", 1, 10)
    link = Link((2, progress), (1, messages.Failed("no such file", usage=True)))
    said, error = prepare(tmp_path, link)
    waits = (
        "decoding --dataset digits, or trying out --model vgg11, still runs, without progress for {} s; Ctrl-C stops it"
    )
    assert said == [waits.format(60), waits.format(120), "decoding 1/10", waits.format(60)]
    assert isinstance(error, ConfigError)
    assert str(error) == "no such file"


def test_a_process_that_crashes_over_the_data_says_how_it_ended(tmp_path: Path) -> None:
    said, error = prepare(tmp_path, Link((0, None)))
    assert said == []
    assert str(error) == "decoding --dataset digits, or trying out --model vgg11, crashed (killed)"
