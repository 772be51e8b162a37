"""One run of any mode: run directory, launch, summary, report."""

from __future__ import annotations

import dataclasses
import platform
import secrets
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl.config import RunConfig, spans_machines
from p2pfl.errors import ConfigError, DivergenceError, Interrupted, P2PFLError, explained
from p2pfl.experiment.endpoints import endpoints_in_file
from p2pfl.experiment.resume import has_other_rounds, prolong, starting_point
from p2pfl.launch import LaunchSpec, Outcome, launch
from p2pfl.launch.recovery import recover, recovery_line
from p2pfl.model.sketches import Vector
from p2pfl.modes import Roles, assign_roles, mode_of, topology_of
from p2pfl.node.limits import allow_open_files
from p2pfl.report import check_drawing, complete_summary, known_facts, summarize, write_report, write_summary
from p2pfl.run.directory import check_results, create_run_dir, locked, remove_unused, update_dataset, with_kept_files
from p2pfl.run.fingerprint import resume_fingerprint
from p2pfl.run.partition_file import as_given
from p2pfl.run.paths import peer_dir
from p2pfl.run.records import RoundRecord, read_recorded
from p2pfl.run.recovery import RecoveryLine
from p2pfl.run.settings import fault_script, resolve
from p2pfl.run.shard_record import recorded_sizes
from p2pfl.run.sketch_file import readable_sketches
from p2pfl.topology import Topology
from p2pfl.transport import keyring
from p2pfl.ui import OverallProgress, RunInfo, make_display
from p2pfl.util.signals import interruptible

_PACKAGES = ("p2pfl-swarm", "torch", "torchvision", "pyzmq", "networkx", "numpy")


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and the fields of `summary.json`."""

    run_dir: Path
    summary: dict[str, Any]


def run_swarm(topology: Topology, config: RunConfig | None = None, *, resume: Path | None = None) -> Result:
    """Train one model over a topology, with a process for each peer.

    The same as `p2pfl gossip`, or with a config of mode "local" as `p2pfl local`. `resume` is the run directory of an
    interrupted run with the same settings, or of any with other `rounds` where its schedule is constant. Scripts must
    call it under `if __name__ == "__main__":`, because every peer process imports the script.

    Raises ConfigError (bad input), Interrupted (Ctrl-C), P2PFLError (the run failed); what was recorded until then
    is in the run directory, with a summary and a report.

    Examples:
        >>> config = RunConfig.of(dataset="digits", width=0.25, rounds=3)
        >>> result = run_swarm(make_topology("ring", 4), config)  # doctest: +SKIP
        >>> result.summary["consensus_accuracy"]  # doctest: +SKIP
    """
    return run(config or RunConfig(), topology, resume=resume)


def run(
    config: RunConfig,
    topology: Topology | None = None,
    *,
    resume: Path | None = None,
    again: str | None = None,
    link_delay: float = 0.0,
    overall: OverallProgress | None = None,
) -> Result:
    """Run any mode; `topology` is None where the mode needs no topology file.

    `again` is the command that resumes an interrupted run, if that is not `p2pfl MODE --resume RUN_DIR`.
    `overall`: progress of all runs of which this is one; it is shown with this one's.
    `link_delay` holds back every message for so many seconds: the slow link of benchmarks and tests.

    Examples:
        >>> result = run(RunConfig.of(mode="centralized", num_clients=4, num_selected=2))  # doctest: +SKIP
    """
    with interruptible():
        return _run(config, topology_of(config) or topology, resume, again, link_delay, overall)


# Longer than 40 lines: the steps of a run, in their order.
def _run(
    config: RunConfig,
    topology: Topology | None,
    resume: Path | None,
    again: str | None,
    link_delay: float,
    overall: OverallProgress | None,
) -> Result:
    if topology is None:
        raise ConfigError(f"a {config.mode} run needs a topology file")
    roles, config = _planned(config, topology)
    binds = endpoints_in_file(topology, config)
    if mode_of(config).mixes and not spans_machines(config):
        keyring.check_keys(topology, config.exchange.keys, config.exchange.insecure, range(topology.n))
    longer = resume is not None and has_other_rounds(resume, config)
    complete = None if resume is None or longer else complete_summary(resume)
    if resume is not None and complete is not None:
        return Result(resume, complete)
    check_drawing()
    if resume is not None:
        check_results(resume)
    allow_open_files(roles.topology.n, max(len(links) for links in roles.links))
    run_dir = resume or create_run_dir(roles.topology, config)
    remedy = how_to_resume(config, again or f"p2pfl {config.mode} --resume {shlex.quote(str(run_dir))}")
    given = config
    with explained(run_dir), locked(run_dir):
        try:
            sized = _with_sizes(roles, config, run_dir)
            line = None if resume is None else recovery_line(sized, config, run_dir)
            begins = "" if resume is None else starting_point(sized, config, run_dir, again, line)
            config = with_kept_files(config, run_dir)
            spec = _launch_spec(roles, config, run_dir, resume is not None, binds, link_delay)
            spec = dataclasses.replace(spec, on_prepared=lambda: _rewind(spec, line, longer))
            outcome = _launch(spec, begins, line, overall)
        except (KeyboardInterrupt, P2PFLError) as error:
            if resume is None:  # what was there before stays, whatever it holds
                remove_unused(run_dir)
            if isinstance(error, KeyboardInterrupt) and run_dir.exists():
                raise Interrupted("interrupted", remedy=remedy) from None
            if resume is None and isinstance(error, ConfigError):
                raise as_given(error, given, run_dir) from None
            raise
        if resume is not None:
            update_dataset(run_dir, config)
        return _conclude(run_dir, outcome, remedy, resume is not None, again)


def _rewind(spec: LaunchSpec, line: RecoveryLine | None, longer: bool) -> None:
    """Change a run that is resumed, once all that can be checked has been."""
    if longer:
        prolong(spec.run_dir, spec.config)
    if line is not None:
        recover(line, spec.roles, spec.config, spec.run_dir, spec.script)


def _planned(config: RunConfig, topology: Topology) -> tuple[Roles, RunConfig]:
    """Roles of a run, and its settings with all defaults. Raises ConfigError."""
    keyring.refuse_peer_options(config.exchange)
    roles = assign_roles(config, topology)
    # Clients that are not selected do nothing: the cores are for those that train at the same time.
    busy = config.centralized.num_selected if roles.coordinator is not None else roles.shards
    config = resolve(config, topology, busy)
    named = dataclasses.replace(topology, name=config.record.name or topology.name)
    return dataclasses.replace(roles, topology=named), config


def _launch_spec(
    roles: Roles, config: RunConfig, run_dir: Path, resume: bool, binds: Sequence[str] | None, link_delay: float
) -> LaunchSpec:
    settings = resume_fingerprint(roles, config)
    script = fault_script(config, roles.topology)
    return LaunchSpec(
        roles, config, run_dir, _name(settings), settings, resume, binds, link_delay, script, _token(config)
    )


def _with_sizes(roles: Roles, config: RunConfig, run_dir: Path) -> Roles:
    """Roles with the mixing matrix of the shards' sizes, where these are recorded."""
    sizes = recorded_sizes(run_dir, roles.topology, roles.shards) if roles.awaits_sizes else None
    return roles if sizes is None else assign_roles(config, roles.topology, sizes)


def how_to_resume(config: RunConfig, command: str) -> str:
    """Remedy for an interrupted run, which begins again if it has no checkpoints."""
    return f"{'resume' if config.record.checkpoint else 'start again'} with: {command}"


def _name(settings: str) -> str:
    """Id of this launch on the wire; its second half keeps out earlier peers."""
    return f"{settings[:16]}-{secrets.token_hex(8)}"


def _token(config: RunConfig) -> str | None:
    """Secret of this launch, by which its processes know each other without keys."""
    has_keys = config.exchange.keys is not None or (spans_machines(config) and not config.exchange.insecure)
    return None if has_keys else secrets.token_hex(32)


def _launch(spec: LaunchSpec, begins: str, line: RecoveryLine | None, overall: OverallProgress | None) -> Outcome:
    """Start the processes and watch them; `begins` says where a resumed run begins."""
    config, roles = spec.config, _with_sizes(spec.roles, spec.config, spec.run_dir)
    info = RunInfo(
        mode=config.mode,
        name=roles.topology.name,
        peers=roles.topology.names,
        rounds=config.training.rounds,
        consensus_rounds=0 if roles.awaits_sizes else roles.consensus_rounds,
        run_dir=spec.run_dir,
        batch_size=config.training.batch_size,
        coordinator=roles.coordinator,
    )
    with make_display(info, footer=None if overall is None else overall.render) as display:
        if spec.resume:
            display.restore(_recorded(roles.topology, spec.run_dir, config.training.rounds, line))
            display.info(begins)
        return launch(spec, [display] if overall is None else [display, overall])


def _recorded(
    topology: Topology, run_dir: Path, rounds: int, line: RecoveryLine | None
) -> list[tuple[int, RoundRecord, Vector]]:
    """Readable records of an interrupted run's training rounds that are not repeated."""
    found = []
    for peer in range(topology.n):
        folder = peer_dir(run_dir, topology, peer)
        last = rounds if line is None or not line.lowered else min(rounds, line.rounds[peer])
        recorded, sketches = read_recorded(folder, last), readable_sketches(folder)[0]
        unknown = np.full(sketches.shape[1], np.nan, np.float32)  # coordinators and clients write no sketches
        for record in (record for record in recorded.rounds if record.phase == "train"):
            row = recorded.rows.get(record.round)
            found.append((peer, record, unknown if row is None else sketches[row]))
    return found


def _conclude(run_dir: Path, outcome: Outcome, remedy: str, resumed: bool, again: str | None) -> Result:
    """Write summary and report; return the result, or raise the outcome's error."""
    problem, rewrite = "", again or f"p2pfl report {shlex.quote(str(run_dir))}"
    if outcome.status == "usage" and not resumed:
        remove_unused(run_dir)
        raise ConfigError(outcome.reason)
    try:
        summary = _write_down(run_dir, outcome)
    except KeyboardInterrupt:
        raise _without_report(outcome, remedy, rewrite) from None
    except (P2PFLError, OSError) as error:
        if outcome.status == "complete":
            raise P2PFLError(f"the run is complete, but not its report: {error}", remedy=f"then: {rewrite}") from None
        summary, problem = {}, f" (and no report could be written: {error})"
    if outcome.status == "complete":
        return Result(run_dir, summary)
    if outcome.status == "interrupted":
        raise Interrupted(f"{outcome.reason}{problem}", remedy=remedy)
    if outcome.status == "usage":
        raise ConfigError(outcome.reason)
    raise (DivergenceError if outcome.diverged else P2PFLError)(
        f"{outcome.reason}{problem}", remedy=remedy if outcome.resumable else None, resumable=outcome.resumable
    )


def _without_report(outcome: Outcome, remedy: str, rewrite: str) -> Interrupted:
    """Error for an interrupt while the report was made; it tells the outcome, too."""
    said = "interrupted before the report was written"
    if outcome.status == "complete":
        return Interrupted(f"{said} (the run itself is complete)", remedy=f"make it with: {rewrite}")
    if outcome.status == "interrupted":
        return Interrupted(said, remedy=remedy)
    helps = outcome.status == "failed" and outcome.resumable
    return Interrupted(f"{outcome.reason} ({said})", remedy=remedy if helps else None, resumable=outcome.resumable)


def _write_down(run_dir: Path, outcome: Outcome) -> dict[str, Any]:
    """Summary and report; returns the summary."""
    before = known_facts(run_dir).get("seconds", 0.0)  # the run may have been resumed
    summary = summarize(
        run_dir,
        lost_peers=outcome.lost,
        restarts=outcome.restarts,
        versions=versions(),
        seconds=before + outcome.seconds,
    )
    write_summary(run_dir, summary)
    write_report(run_dir)
    return summary


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
