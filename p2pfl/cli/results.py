"""`report`: results of runs that have been recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError
from p2pfl.report import read_summary, summarize, write_report, write_summary
from p2pfl.rundir import open_run_dir
from p2pfl.swarm import versions


@dataclass(frozen=True)
class Report:
    """Tables and plots from what was recorded, also of a run that was interrupted or is still going on."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...")]
    """Run directories."""


def report(words: list[str]) -> int:
    """Write summary, plots and page of recorded runs again."""
    run_dirs = parse(Report, words, "report").run_dirs
    if not run_dirs:
        raise ConfigError("report: name a run directory, such as one under runs/")
    for run_dir in run_dirs:
        open_run_dir(run_dir)
        write_summary(run_dir, summarize(run_dir, **_known_facts(run_dir)))
        print(write_report(run_dir))
    return 0


def _known_facts(run_dir: Path) -> dict[str, Any]:
    """What the records do not say and the launcher has written down."""
    if not (run_dir / "summary.json").exists():
        return {"versions": versions()}
    known = read_summary(run_dir)
    return {name: known[name] for name in ("lost_peers", "versions", "seconds") if known.get(name)}
