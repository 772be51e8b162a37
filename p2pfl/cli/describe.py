"""Text of a dry run's requirements and of a run's result."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pfl.config import RunConfig
from p2pfl.experiment.endpoints import endpoints_in_file
from p2pfl.experiment.run import Result
from p2pfl.launch import describe_cluster
from p2pfl.merge import FinalMerge
from p2pfl.mixing import uses_tree
from p2pfl.modes import MODES, Roles, assign_roles, mode_of
from p2pfl.report.fields import spans_text
from p2pfl.run.paths import MODEL_FILE, PEERS_FOLDER, REPORT_FILE
from p2pfl.topology import ScheduleConvergence, Topology, diameter, spanning_tree, spectral_gap
from p2pfl.util.units import counted

_LISTED_SHARDS, _LISTED_CLASSES = 32, 10
_STATES = {"sgd": "momentum", "adamw": "two moments"}  # of the optimizer

if TYPE_CHECKING:
    from p2pfl.preflight.estimate import Estimate


def describe_run(topology: Topology, run: RunConfig, *, index: int | None = None, begins: bool = True) -> str:
    """Output of `--dry-run`. Raises ConfigError where the run itself would.

    `index`: the only peer on this machine, None for all. `begins`: whether the run is new. Progress in decoding an
    image folder is shown where stderr is a terminal.
    """
    from p2pfl.preflight.estimate import estimate
    from p2pfl.run.settings import resolve

    roles = assign_roles(run, topology)
    resolve(run, topology, 1)
    endpoints_in_file(topology, run)
    need = estimate(roles, run, show_decoding, index=index, begins=begins)
    roles = need.roles
    memory = need.weights_memory + need.activations_memory + need.exchange_memory + need.shared_memory
    rows = {
        "processes": _processes(roles, run),
        "data": f"{run.data.dataset}: {_samples(need)}, {need.classes} classes"
        + (f"; {_shard_sizes(need)} {_each(run)}" if roles.shards > 1 else ""),
        **_shards(need, roles),
        "model": f"{run.model.model}: {need.parameters:,} parameters",
        "training": f"{counted(need.rounds, 'round')} of {_steps(need)} "
        f"of {counted(run.training.batch_size, 'sample')}" + (f" {_each(run)}" if roles.shards > 1 else ""),
        "memory": f"{_mb(memory)} per process besides libraries and data, {_mb(memory * roles.topology.n)} in total: "
        f"weights, gradient and {_STATES[run.training.optimizer]} {_mb(need.weights_memory)}, "
        f"activations {_mb(need.activations_memory)}, "
        f"exchange {_mb(need.exchange_memory)}"
        + (f", shared with neighbors {_mb(need.shared_memory)}" if need.shared_memory else ""),
        **_gpus(need),
        **_cluster(roles, run),
        **_traffic(need),
        "disk": _disk(need, run),
    }
    lines = [*rows.items(), *(("note", note) for note in need.notes)]
    return "\n".join(f"{name + ':':<12} {text}" for name, text in lines)


def _samples(need: Estimate) -> str:
    """Sizes of the data set's parts, as the run uses them."""
    if not need.validation_samples:
        return f"{need.train_samples:,} training and {need.test_samples:,} test samples"
    test = f" and {need.test_samples:,} test samples" if need.test_samples else " samples; the test set is not used"
    kept = need.train_samples - need.validation_samples
    return f"{kept:,} training, {need.validation_samples:,} validation{test}"


def _shard_sizes(need: Estimate) -> str:
    """Size of a shard; those of classes and sizes that differ are spans."""
    if not need.class_counts:
        return f"{need.smallest_shard:,}"
    return _span(need.smallest_shard, need.largest_shard)


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _steps(need: Estimate) -> str:
    if need.steps_per_round == need.most_steps_per_round:
        return counted(need.steps_per_round, "step")
    return f"{_span(need.steps_per_round, need.most_steps_per_round)} steps"


def _shards(need: Estimate, roles: Roles) -> dict[str, str]:
    """Size and classes of each shard; of many, those of the first."""
    rows = {}
    all_here = len(need.class_counts) == roles.shards
    names = roles.topology.names if all_here else ("of this peer",)
    for name, counts in list(zip(names, need.class_counts, strict=False))[:_LISTED_SHARDS]:
        held = sorted(((count, label) for label, count in enumerate(counts) if count), key=lambda item: -item[0])
        listed = ", ".join(f"{count:,} of {need.class_names[label]}" for count, label in held[:_LISTED_CLASSES])
        more = f" and {len(held) - _LISTED_CLASSES} classes more" if len(held) > _LISTED_CLASSES else ""
        rows[f"shard {name}"] = f"{counted(sum(counts), 'sample')}: {listed}{more}"
    left = len(need.class_counts) - len(rows)
    return rows | ({"shards": f"{left:,} more"} if left > 0 else {})


def show_decoding(what: str, done: int, total: int) -> None:
    """Show the progress of decoding on one line, if stderr is a terminal."""
    if sys.stderr.isatty():
        end = "\r" if done < total else "\n"
        print(f"{what}: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def _processes(roles: Roles, run: RunConfig) -> str:
    if roles.coordinator is not None:
        selected = run.centralized.num_selected
        return f"a coordinator and {counted(roles.shards, 'client')}, of which {selected} train in a round"
    if not mode_of(run).has_peers:
        return "one process with all data"
    steps = run.gossip.gossip_steps
    exchange = f"spectral gap {spectral_gap(roles.matrix):.4f}" if mode_of(run).mixes else "without any exchange"
    if roles.mixing.convergence is not None:
        exchange = _by_round(roles, roles.mixing.convergence, "round" if steps == 1 else "exchange")
    if uses_tree(run):
        exchange = f"sums relayed along a spanning tree of diameter {diameter(spanning_tree(roles.topology))}"
    if steps > 1:
        exchange += f", {counted(steps, 'exchange')} after each training"
    named = "" if run.record.name in (None, roles.topology.name) else f" (run {run.record.name})"
    return f"{roles.topology.name}{named}: {counted(roles.shards, 'peer')}, {exchange}"


def _by_round(roles: Roles, found: ScheduleConvergence, unit: str) -> str:
    speed = f"spectral gap {found.gap:.4f} {'an' if unit == 'exchange' else 'a'} {unit}"
    if found.exact is not None:
        speed = f"exact average after {counted(found.exact, unit)}"
    if not roles.topology.is_schedule:
        return f"finite-time averaging, {speed}"
    return f"a schedule of {counted(found.period, 'graph')}, {speed}"


def _each(run: RunConfig) -> str:
    return "per client" if mode_of(run).has_coordinator else "per peer"


def _gpus(need: Estimate) -> dict[str, str]:
    if need.gpu is None:
        return {}
    shared = (
        f"{count:,} process{'es' * (count > 1)} on {device}, which has {need.gpu.free[device] / 1e9:.1f} GB free"
        for device, count in need.gpu.processes.items()
    )
    return {"gpu memory": f"{need.gpu.need / 1e9:.1f} GB per process; {'; '.join(shared)}"}


def _cluster(roles: Roles, run: RunConfig) -> dict[str, str]:
    """Size of the cluster, and the places that the run asks for."""
    cluster = describe_cluster(run.launch, roles.topology.n)
    return {} if cluster is None else {"cluster": cluster}


def _traffic(need: Estimate) -> dict[str, str]:
    if not need.bytes_per_round:
        return {"bytes sent": "none"}
    rows = {
        "bytes sent": f"{_mb(need.bytes_per_round)} per round by all, {_mb(need.busiest_bytes_per_round)} by the "
        f"busiest; {_mb(need.training_bytes)} in all rounds"
    }
    merge = need.roles.merge
    if merge is not None:
        rows["consensus"] = _final_merge(need, merge)
    return rows


def _disk(need: Estimate, run: RunConfig) -> str:
    """Room that checkpoints and model take."""
    if not need.checkpoints_kept:
        return f"{_mb(need.disk)}; no checkpoints"
    every = run.record.checkpoint_every
    when = "after each round" if every == 1 else f"every {every:,} rounds"
    return f"{_mb(need.disk)}: checkpoints {when}, {need.checkpoints_kept} kept of a process, and one that is written"


def _final_merge(need: Estimate, merge: FinalMerge) -> str:
    """Final merge: rounds, bytes and rule."""
    if merge.rule == "none":
        return "none (--final-merge none): each peer ends with its own model, in its checkpoint"
    more, result = counted(need.consensus_rounds, "more round"), "the exact mean, " if merge.is_exact else ""
    again = ", half of them for re-estimated running statistics" if need.roles.merges > 1 else ""
    return f"{more} of mixing only, {_mb(need.consensus_bytes)}; {result}by {merge.by}{again}"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def describe_result(result: Result) -> str:
    """Results of a finished run, and the paths of its files."""
    summary = result.summary
    mode = MODES[summary["mode"]]
    peers, where = "", f"of the {summary['evaluated_on'] or 'test'} set"
    if summary["mean_peer_accuracy"] is not None:
        peers = f"mean {summary['mean_peer_accuracy']:.2%}, worst {summary['worst_peer_accuracy']:.2%}"
    if not mode.has_common_model or summary["final_merge"] == "none":
        reason = "no final merge: " if mode.has_common_model else ""
        lines = [f"peers: {peers} {where} ({reason}each has its own model)"]
    else:
        before = f" (peers before the consensus phase: {peers})" if peers else ""
        accuracy = summary["consensus_accuracy"]
        model = "none, because the process that saves it was lost" if accuracy is None else f"{accuracy:.2%} {where}"
        lines = [f"{mode.model_name}: {model}{before}"]
        if accuracy is not None:
            lines.append(f"weights: {result.run_dir / MODEL_FILE}")
    lines += _incidents(summary)
    lines += [
        f"profile: {path} (open it in ui.perfetto.dev)" for path in result.run_dir.glob(f"{PEERS_FOLDER}/*/profile-*")
    ]
    return "\n".join([*lines, f"report:  {result.run_dir / REPORT_FILE}"])


def _incidents(summary: Mapping[str, Any]) -> list[str]:
    """Losses, restarts and missing peers of a run, one line each."""
    lines = []
    if summary["lost_peers"]:
        lines.append(f"lost: {', '.join(summary['lost_peers'])}")
    if summary["restarts"]:
        lines.append("restarted: " + ", ".join(f"{name} ({n} times)" for name, n in summary["restarts"].items()))
    if summary["weights_from_neighbors"]:
        taken = (
            f"{i['peer']} in round {i['round']} (from {', '.join(i['neighbors'])})"
            for i in summary["weights_from_neighbors"]
        )
        lines.append("bootstrapped from neighbors: " + "; ".join(taken))
    lines += [f"damaged: {line}" for line in summary["damaged_records"]]
    if summary["missing_peers"]:
        away = (f"{item['peer']} in round {spans_text(item['rounds'])}" for item in summary["missing_peers"])
        lines.append("missing: " + "; ".join(away))
    for item in summary["components"] or ():
        together = " | ".join(", ".join(part) for part in item["components"])
        lines.append(f"disconnected in round {spans_text([item['rounds']])}: {together}")
    return lines
