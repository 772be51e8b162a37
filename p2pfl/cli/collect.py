"""`collect`: the run directories of a run's peers, brought together in one."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError
from p2pfl.run.collect import Collected
from p2pfl.run.collect import collect as bring_together
from p2pfl.util.text import some


@dataclass(frozen=True)
class Collect:
    """Bring the run directories of one run's peers together in one.

    The result is a run directory of the usual form, for `p2pfl report`, `p2pfl compare` and all else. Sources may be
    on a shared folder and of peers that are still running; the same command again brings what is new. Newer files are
    never replaced by older ones. Directories of different runs are refused.
    """

    sources: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...", help_behavior_hint="(required)")
    ]
    """Run directories of `p2pfl peer`, or folders of such."""
    run_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Run directory for all peers: a new one, or one that has some of them."""


def collect(words: list[str]) -> int:
    """Collect run directories, and print what came of it."""
    arguments = parse(Collect, words, "collect")
    if not arguments.sources:
        raise ConfigError("collect: name the run directories of peers, or a folder that has them")
    found = bring_together(arguments.sources, arguments.run_dir)
    print(_described(found, arguments.run_dir))
    if found.missing:
        print(f"p2pfl: warning: no run directory of {some(found.missing, 8)}", file=sys.stderr)
    return 0


def _described(found: Collected, run_dir: Path) -> str:
    counts = {"copied": found.copied, "up to date": found.up_to_date, "newer than in the sources": found.newer}
    told = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names) or "none copied"
    missing = f", {len(found.missing)} missing" if found.missing else ""
    return f"{run_dir}: peers: {told}{missing}; report with: {shlex.join(['p2pfl', 'report', str(run_dir)])}"
