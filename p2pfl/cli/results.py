"""`report`: results of runs that have been recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.report import read_summary, summarize, write_report, write_summary
from p2pfl.swarm import open_run_dir, versions


@dataclass(frozen=True)
class Report:
    """Tables and plots from what was recorded, also of a run that was interrupted or is still going on."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""


def report(words: list[str]) -> int:
    """Write summary, plots and page of recorded runs again."""
    for run_dir in parse(Report, words, "report").run_dirs:
        open_run_dir(run_dir)
        write_summary(run_dir, summarize(run_dir, **_known_facts(run_dir)))
        print(write_report(run_dir))
    return 0


def _known_facts(run_dir: Path) -> dict[str, Any]:
    """What the records do not say and the launcher has written down."""
    if not (run_dir / "summary.json").exists():
        return {"versions": versions()}
    known = read_summary(run_dir)
    return {name: known[name] for name in ("mode", "lost_peers", "versions", "seconds") if known.get(name)}
