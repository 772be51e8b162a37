"""Command lines in deploy/, parsed as the commands themselves do."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tests.support.paths import ROOT

from p2pfl.cli.arguments import parse
from p2pfl.cli.options import Resolved, resolve_options
from p2pfl.cli.rendezvous import Rendezvous
from p2pfl.cli.train import OnePeer
from p2pfl.topology.node_choice import node_from

DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    """Documents of a YAML file in deploy/, with the defaults of ${VARIABLE:-DEFAULT}."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)))


def peer(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, Resolved[OnePeer]]:
    """Node and settings of `p2pfl peer ...`. Raises ConfigError."""
    assert words[0] == "peer"
    resolved = resolve_options(OnePeer, words[1:], "peer", "gossip")
    assert resolved.arguments.node_from is not None
    return node_from(resolved.arguments.node_from, environment, resolved.topology).index, resolved


def service(words: Sequence[str]) -> Rendezvous:
    """Options of `p2pfl rendezvous ...`. Raises ConfigError."""
    assert words[0] == "rendezvous"
    return parse(Rendezvous, list(words[1:]), "rendezvous")


class Shell:
    """Shell that runs a script with stand-ins for programs, which record their words."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()

    def replace(self, program: str, then: str) -> None:
        """Stand-in for a program: it records its words, and does `then`."""
        path = self.folder / "bin" / program
        path.write_text(f"""#!/bin/sh\nprintf '%s\\0' "$@" > '{self.folder}/{program}.words'\n{then}\n""")
        path.chmod(0o755)

    def words(self, program: str) -> list[str]:
        """Words of the last call of a stand-in; none if there was no call since."""
        path = self.folder / f"{program}.words"
        if not path.exists():
            return []
        words = path.read_text().split("\0")[:-1]
        path.unlink()
        return words

    def start(self, *command: str, environment: Mapping[str, str], cwd: Path = ROOT) -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            env={**os.environ, **environment, "PATH": path},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, environment: Mapping[str, str], cwd: Path = ROOT) -> int:
        """Exit status of a script that ends."""
        with self.start(*command, environment=environment, cwd=cwd) as process:
            _, err = process.communicate(timeout=60)
        assert err == ""
        return process.returncode
