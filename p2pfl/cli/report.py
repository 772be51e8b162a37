"""`report`: tables and plots of recorded runs."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError
from p2pfl.experiment.run import versions
from p2pfl.report import complete_summary, known_facts, summarize, write_report, write_summary
from p2pfl.report.compare import read_comparison, write_comparison
from p2pfl.run.directory import open_run_dir, runs_in
from p2pfl.run.paths import COMPARISON_JSON_FILE, CONFIG_FILE, REPORT_FILE, SUMMARY_FILE, TUNING_FOLDER
from p2pfl.util.units import counted


@dataclass(frozen=True)
class Report:
    """Write tables and plots of recorded runs.

    These may be interrupted or still running. Given the folder of a finished comparison, it rewrites the comparison;
    for an interrupted one, name its runs instead.
    """

    run_dirs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...", help_behavior_hint="(required)")
    ]
    """Run directories, or folders of comparisons."""


def report(words: list[str]) -> int:
    """Rewrite summary, plots and page of recorded runs."""
    run_dirs = parse(Report, words, "report").run_dirs
    if not run_dirs:
        raise ConfigError("report: name a run directory, such as one under runs/")
    for run_dir in run_dirs:
        if os.path.lexists(run_dir / COMPARISON_JSON_FILE) and not os.path.lexists(run_dir / CONFIG_FILE):
            print(_rewrite_comparison(run_dir))
            continue
        _refuse_unfinished(run_dir)
        open_run_dir(run_dir)
        facts = known_facts(run_dir) if (run_dir / SUMMARY_FILE).exists() else {"versions": versions()}
        summary = summarize(run_dir, **facts)
        for line in summary["damaged_records"]:
            print(f"p2pfl: warning: {line}", file=sys.stderr)
        write_summary(run_dir, summary)
        print(write_report(run_dir))
    return 0


def _refuse_unfinished(folder: Path) -> None:
    """Refuse the folder of an interrupted comparison, which has no table."""
    if (folder / CONFIG_FILE).exists():
        return
    where = next((at for at in (folder, folder / TUNING_FOLDER) if any(at.glob(f"*/{CONFIG_FILE}"))), None)
    if where is None:
        return
    run_dirs = runs_in(where)
    complete = sum(complete_summary(run_dir) is not None for run_dir in run_dirs)
    how_many = f"none of its {counted(len(run_dirs), 'run')} has" if not complete else f"{complete} of its runs have"
    raise ConfigError(
        f"{folder}: contains no finished comparison ({how_many} finished)",
        remedy="finish it with the command that started it, or report its runs with: "
        + shlex.join(["p2pfl", "report", *map(str, run_dirs)]),
    )


def _rewrite_comparison(folder: Path) -> Path:
    run_dirs, command = read_comparison(folder)
    write_comparison(folder, run_dirs, allow_mismatch=True, command=command)
    return folder / REPORT_FILE
