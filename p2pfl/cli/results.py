"""`report`: results of runs that have been recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError
from p2pfl.report import SUMMARY_FILE, known_facts, summarize, write_report, write_summary
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
        facts = known_facts(run_dir) if (run_dir / SUMMARY_FILE).exists() else {"versions": versions()}
        write_summary(run_dir, summarize(run_dir, **facts))
        print(write_report(run_dir))
    return 0
