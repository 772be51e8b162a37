"""Session of one document: its snippets run in order in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

from PIL import Image
from tests.support.paths import ROOT
from tests.support.snippets import Block
from tests.support.tiny import IMAGES, tiny_python

from p2pfl.config import load_toml
from p2pfl.faults import load_faults

TIMEOUT = 150.0  # seconds of a block
_STUB = '#!/bin/sh\nexec "{python}" -m tests.support.snippet_command {name} "$@"\n'


class SnippetError(AssertionError):
    """A snippet that failed, with its output."""


class Session:
    """Folder like a checkout, and a shell whose `p2pfl` and `python` are served warm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.here = self.folder
        self._bin = folder / "bin"
        self.folder.mkdir()
        for name in ("topologies", "configs"):
            shutil.copytree(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "run_peers.py", self.folder)
        _write_images(self.folder / IMAGES)
        self._bin.mkdir()
        for name in ("p2pfl", "python", "python3"):
            stub = self._bin / name
            stub.write_text(_STUB.format(python=sys.executable, name=name))
            stub.chmod(0o755)

    def run(self, block: Block) -> None:
        """Run or parse a block. Raises SnippetError with its place and output."""
        if block.name:
            text = tiny_python(block.text) if block.language == "python" else block.text
            path = self.here / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._filled(text), encoding="utf-8")
        if block.language == "bash":
            self._bash(block.place, self._filled(block.text))
        elif block.language == "python":
            name = block.name or f"snippet_{block.line}.py"
            (self.here / name).write_text(self._filled(tiny_python(block.text)), encoding="utf-8")
            self._bash(block.place, f"python {name}")
        elif block.language == "toml":
            self._toml(block)
        elif block.language == "json":
            json.loads(block.text)

    def _filled(self, text: str) -> str:
        """Text with the newest run in place of RUN_DIR.

        A document for readers who have a run gets one.
        """
        if "RUN_DIR" not in text:
            return text
        if not self._runs():
            self._bash("a run for RUN_DIR", "p2pfl gossip topologies/ring-4.graphml")
        newest = max(self._runs(), key=lambda path: path.stat().st_mtime_ns)
        return text.replace("RUN_DIR", str(newest.parents[2].relative_to(self.here)))

    def _runs(self) -> list[Path]:
        return list(self.here.rglob("peers/*/rounds.jsonl"))

    def _bash(self, place: str, text: str) -> None:
        where = self.folder.parent / "where"
        script = f"set -euo pipefail\n{text}\nwait\npwd > '{where}'\n"
        environment = {
            **os.environ,
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
        }
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.here,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            out, _ = process.communicate()
            raise SnippetError(f"{place}: not finished after {TIMEOUT:g} s\n{text}\n{out}") from None
        if process.returncode:
            raise SnippetError(f"{place}: exit status {process.returncode}\n{text}\n{out}")
        self.here = Path(where.read_text(encoding="utf-8").strip())

    def _toml(self, block: Block) -> None:
        path = self.here / (block.name or f"snippet-{block.line}.toml")
        path.write_text(block.text, encoding="utf-8")
        if "[[fault]]" in block.text:
            load_faults(path, 0)
        elif path.name == "pyproject.toml":
            tomllib.loads(block.text)
        else:
            load_toml(path)


def _write_images(folder: Path) -> None:
    """Image folder of two classes, whose pictures differ in color."""
    for part, count in (("train", 24), ("test", 8)):
        for name, color in (("cats", (200, 60, 60)), ("dogs", (60, 60, 200))):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                shade = tuple(min(255, channel + 5 * number) for channel in color)
                picture = Image.new("RGB", (32, 32), shade)
                picture.putpixel((number % 32, 5), (255, 255, 255))
                picture.save(folder / part / name / f"{number}.png")
