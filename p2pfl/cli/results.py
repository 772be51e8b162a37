"""`report`: results of runs that have been recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from p2pfl.cli.arguments import parse


def report(words: list[str]) -> int:
    """Write summary, plots and page of recorded runs again."""
    from p2pfl.report import summarize, write_report, write_summary
    from p2pfl.swarm import open_run_dir, versions

    @dataclass(frozen=True)
    class Report:
        """Tables and plots from what was recorded, also of a run that was interrupted or is still going on."""

        run_dirs: tyro.conf.Positional[tuple[Path, ...]]
        """Run directories."""

    for run_dir in parse(Report, words, "report").run_dirs:
        open_run_dir(run_dir)
        if not (run_dir / "summary.json").exists():
            write_summary(run_dir, summarize(run_dir, versions=versions()))
        print(write_report(run_dir))
    return 0
