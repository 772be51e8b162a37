"""A run as a user starts it, in its own process group.

Tests kill, freeze and wake its processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
from tests.support import commands

from p2pfl.run.records import RoundRecord, read_rounds


class Run:
    """`run_peers.py …` with RUN_DIR in the test's folder and its own TMPDIR."""

    def __init__(self, folder: Path, *words: str, fresh: bool = True) -> None:
        """Start a run.

        `fresh`: it makes its run directory; otherwise the words name the one that it resumes.
        """
        self.run_dir = folder / "run"
        self._folder = tempfile.TemporaryDirectory(prefix="t-")  # a socket's path must be short
        self.temporary = Path(self._folder.name)
        where = ["--run-dir", str(self.run_dir)] if fresh else []
        environment = {"TMPDIR": str(self.temporary)}
        self.process = commands.start(*words, *where, start_new_session=True, environment=environment)
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"ended before {text!r}: {self.lines} {self.process.stderr.read()}")  # type: ignore[union-attr]

    def signal_in_round(self, name: str, number: signal.Signals, round: int) -> None:
        """Send a signal after a round, so in the middle of the next.

        The process is found beforehand, since rounds are short.
        """
        self.until("rounds of training")
        process = self.worker(name)
        while not self.has_recorded(round):  # the terminal would be told later
            assert self.process.poll() is None, "ended before"
            time.sleep(0.005)
        process.send_signal(number)

    def has_recorded(self, round: int) -> bool:
        """Whether the coordinator has recorded so many rounds, or without one all peers."""
        folders = list(self.run_dir.glob("peers/coordinator")) or list(self.run_dir.glob("peers/*"))
        files = [folder / "rounds.jsonl" for folder in folders]
        return all(file.exists() and file.read_bytes().count(b"\n") >= round for file in files)

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the warm server leaves no zombie of a run that has ended
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def worker(self, name: str) -> psutil.Process:
        """The process of a client or of the coordinator: the one that writes its log."""
        log = str(self.run_dir / "peers" / name / "log.txt")
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile
                if any(file.path == log for file in process.open_files()):
                    found.append(process)
        (worker,) = found
        return worker

    def end(self, seconds: float = 120.0) -> tuple[int, str]:
        """Exit status and what stands on stderr; nothing of the run is left."""
        family = self.family()
        out, err = self.process.communicate(timeout=seconds)
        self.lines += out.splitlines()
        _gone, alive = psutil.wait_procs(family, timeout=60.0)
        assert not alive, f"orphans: {alive}"
        assert list(self.temporary.glob("p2pfl-*")) == [], "socket files left behind"
        return self.process.returncode, err

    def records(self, name: str = "coordinator") -> list[RoundRecord]:
        return read_rounds(self.run_dir / "peers" / name)

    def summary(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.run_dir / "summary.json").read_text())
        return found

    def kill(self) -> None:
        """Kill all processes that are left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()


def kill_all(run: Run) -> None:
    """Launcher, fork server and peers, one right after the other."""
    family = run.family()
    os.killpg(run.process.pid, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends by itself once its launcher is gone
            process.kill()
    run.process.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    for sockets in run.temporary.glob("p2pfl-*"):
        shutil.rmtree(sockets)  # nobody was left to do that


def is_past(run: Run, number: int) -> bool:
    """Wait until a round from this one on is recorded; False where the run has ended.

    It continues while it is being killed, and may be several rounds further when it is resumed, or at its end. The
    terminal would be told later.
    """
    records = run.run_dir / "peers" / "0" / "rounds.jsonl"
    while run.process.poll() is None:
        if records.exists() and records.read_bytes().count(b"\n") >= number:
            return True
        time.sleep(0.005)
    return False
