"""`report`: tables and plots of recorded runs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError, unwritable
from p2pfl.experiment.run import versions
from p2pfl.report import complete_summary, known_facts, summarize, write_report, write_summary
from p2pfl.report.compare import read_comparison, write_comparison
from p2pfl.run.directory import open_run_dir, runs_in
from p2pfl.run.identity import read_run_id
from p2pfl.run.paths import COMPARISON_JSON_FILE, CONFIG_FILE, REPORT_FILE, SUMMARY_FILE, TUNING_FOLDER
from p2pfl.run.pieces import is_in_pieces, joined_folders, read_piece
from p2pfl.util.text import some
from p2pfl.util.units import counted


@dataclass(frozen=True)
class Report:
    """Write tables and plots of recorded runs.

    These may be interrupted or still running. Given the folder of a finished comparison, it rewrites the comparison;
    for an interrupted one, name its runs instead.

    Several run directories of one run, as `p2pfl peer` makes them on each machine, are joined to one report of the
    whole run, in the first of them or in --out. It names the peers whose directory is missing.
    """

    run_dirs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...", help_behavior_hint="(required)")
    ]
    """Run directories, or folders of comparisons."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the first run directory)")
    ] = None
    """Folder for the report of a run in several directories."""


def report(words: list[str]) -> int:
    """Rewrite summary, plots and page of recorded runs."""
    arguments = parse(Report, words, "report")
    run_dirs = arguments.run_dirs
    if not run_dirs:
        raise ConfigError("report: name a run directory, such as one under runs/")
    if arguments.out is not None or _are_of_one_run(run_dirs):
        print(_report_joined(run_dirs, arguments.out))
        return 0
    for run_dir in run_dirs:
        if _is_comparison(run_dir):
            print(_rewrite_comparison(run_dir))
            continue
        _refuse_unfinished(run_dir)
        open_run_dir(run_dir)
        print(_report(run_dir))
    return 0


def _is_comparison(folder: Path) -> bool:
    return os.path.lexists(folder / COMPARISON_JSON_FILE) and not os.path.lexists(folder / CONFIG_FILE)


def _are_of_one_run(run_dirs: Sequence[Path]) -> bool:
    """Whether several directories are to be joined, each being one peer's.

    Also those with the same id of a launcher's run.
    """
    if len(run_dirs) == 1:
        return False
    ids = [run_id for run_dir in run_dirs if (run_id := read_run_id(run_dir)) is not None]
    return len(ids) > len(set(ids)) or any(map(is_in_pieces, run_dirs))


def _report_joined(run_dirs: Sequence[Path], out: Path | None) -> Path:
    """Write the report of a run in several directories."""
    for run_dir in run_dirs:
        if _is_comparison(run_dir):
            raise ConfigError(f"{run_dir}: the folder of a comparison", remedy="name it alone, without --out")
        _refuse_unfinished(run_dir)
    pieces = [read_piece(run_dir) for run_dir in run_dirs]
    joined = joined_folders(pieces)
    if out is not None:
        is_named = out.exists() and any(out.samefile(run_dir) for run_dir in run_dirs)
        if not is_named and any((out / name).exists() for name in (CONFIG_FILE, COMPARISON_JSON_FILE)):
            raise ConfigError(f"--out {out}: holds another run or comparison", remedy="choose another folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {unwritable(out, error)}") from None
    return _report(run_dirs[0], joined, out)


def _report(run_dir: Path, joined: Mapping[int, Path] | None = None, out: Path | None = None) -> Path:
    """Write summary, plots and page, and warn of damaged records and missing peers."""
    folder = out or run_dir
    facts = known_facts(folder) if (folder / SUMMARY_FILE).exists() else {"versions": versions()}
    if read_run_id(run_dir) is None and (joined is not None or is_in_pieces(run_dir)):
        # No launcher: the seconds of a summary are those of an earlier report.
        facts = {"versions": facts.get("versions", {})}
    summary = summarize(run_dir, **facts, joined=joined)
    for line in summary["damaged_records"]:
        print(f"p2pfl: warning: {line}", file=sys.stderr)
    if summary["uncollected_peers"]:
        print(f"p2pfl: warning: no records of {some(summary['uncollected_peers'], 8)}", file=sys.stderr)
    write_summary(folder, summary)
    return write_report(run_dir, joined, out)


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
