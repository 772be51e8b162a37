"""Report page of a run: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from p2pfl.config import to_toml
from p2pfl.report.evaluated import evaluation_set
from p2pfl.report.fields import FIELDS, NO_VALUE, value_text
from p2pfl.report.load import RecordedRun, latest_accuracy, load_run, of_phase, repeat_command
from p2pfl.report.output import draw_plots, page_text, write_text
from p2pfl.report.participation import participation
from p2pfl.report.plots import PLOTS
from p2pfl.report.summary import known_facts, summarize
from p2pfl.report.warnings import collect_warnings
from p2pfl.run.partition_file import given_path
from p2pfl.run.paths import REPORT_FILE
from p2pfl.run.records import RoundRecord
from p2pfl.util.units import bytes_text, number_text, percent_text, seconds_text


def write_report(run_dir: Path, joined: Mapping[int, Path] | None = None, out: Path | None = None) -> Path:
    """Draw the plots and write `report.html` from the records; returns its path.

    Works for an interrupted run too, and for one that finished no round. Facts that peers do not record (lost peers,
    versions and the launcher's seconds) come from an existing `summary.json`. Raises ConfigError where the run
    directory cannot be read or written.

    `joined`: folders of the peers of a run in pieces, by index. `out`: folder for the report, where it is not the run
    directory; it has the `summary.json`.
    """
    folder = out or run_dir
    summary = summarize(run_dir, **known_facts(folder), joined=joined)
    run = load_run(run_dir, summary["lost_peers"], joined)
    path = folder / REPORT_FILE
    draw_plots(PLOTS[run.mode.name], run, folder)
    write_text(path, _page(run, summary, folder))
    return path


def _page(run: RecordedRun, summary: Mapping[str, Any], folder: Path) -> str:
    return page_text(
        "page.html",
        PLOTS[run.mode.name],
        folder,
        title=run.name if run.name == run.mode.name else f"{run.name}, {run.mode.name}",
        subtitle=_subtitle(run, summary),
        summary=summary,
        tiles=_tiles(run, summary),
        warnings=collect_warnings(run, summary),
        rows=[(name, meaning, value_text(name, summary[name])) for name, meaning in FIELDS.items()],
        table=_PROCESS_TABLE[run.mode.name],
        columns=_columns(run),
        processes=_process_rows(run),
        command=repeat_command(run),
        settings=to_toml(run.config),
    )


def _subtitle(run: RecordedRun, summary: Mapping[str, Any]) -> str:
    settings = run.config
    partition, file = settings.data.partition, settings.data.partition_file
    partition = partition if file is None else f"file:{given_path(file)}"
    split = "" if partition == "iid" else f" ({partition})"
    rule = f"{settings.gossip.algorithm}, " if run.mode.mixes else ""
    task = f"{rule}{settings.model.model} at width {settings.model.width:g} on {settings.data.dataset}{split}"
    rounds = f"{summary['rounds_completed']} of {summary['rounds']} rounds"
    drawn = settings.centralized.num_selected
    processes = {
        "centralized": f"{summary['peers']} clients, of which {drawn} are drawn for a round",
        "sgd": "one process with all the data",
    }.get(run.mode.name, f"{summary['peers']} peers")
    return f"{task}, {processes}, {rounds}, seed {summary['seed']}"


# Mode -> headline fields and their labels; time, speed and bytes follow.
_TILES: dict[str, dict[str, str]] = {
    "gossip": {
        "consensus_accuracy": "consensus model",
        "mean_peer_accuracy": "mean peer",
        "worst_peer_accuracy": "worst peer",
    },
    "centralized": {"consensus_accuracy": "global model", "test_loss": "its loss"},
    "sgd": {"consensus_accuracy": "model", "test_loss": "its loss", "optimizer_steps_per_peer": "steps"},
    "local": {"mean_peer_accuracy": "mean peer, alone", "worst_peer_accuracy": "worst peer, alone"},
}


def _tiles(run: RecordedRun, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Headline numbers: label and text."""
    names = {**_TILES[run.mode.name], "seconds": "time", "samples_per_second": "samples/s"}
    tiles = [(_on_set(label, name, summary), value_text(name, summary[name])) for name, label in names.items()]
    if run.mode.exchanges:
        tiles.append(("sent in total", bytes_text(summary["bytes_sent_total"] + (summary["consensus_bytes"] or 0))))
    if run.coordinator is not None:
        tiles.append(
            (f"of which by {summary['busiest_peer'] or 'one process'}", bytes_text(summary["bytes_sent_max_peer"]))
        )
    return tiles


def _on_set(label: str, name: str, summary: Mapping[str, Any]) -> str:
    """Label of a headline number, with the validation set where it is one of that."""
    is_measured = name == "test_loss" or name.endswith("accuracy")
    return f"{label} (validation)" if is_measured and summary["evaluated_on"] == "validation" else label


# Mode -> heading of the table of processes, and its explanation.
_PROCESS_TABLE: dict[str, tuple[str, str]] = {
    "gossip": (
        "Peers",
        "Training rounds only; the accuracy is the latest one measured before the consensus phase. Own classes: the "
        "accuracy on the peer's own mix of classes.",
    ),
    "local": (
        "Peers",
        "The accuracy is the latest one measured. Own classes: the accuracy on the peer's own mix of classes.",
    ),
    "sgd": ("The process", "It trains on the data of all peers; the accuracy is the latest one measured."),
    "centralized": (
        "Clients and coordinator",
        "A client's rounds are those in which it trained; missed are those for which it was drawn but its update did "
        "not arrive in time. The coordinator's samples are those of the updates that it averaged.",
    ),
}


def _sum(field: str) -> Callable[[list[RoundRecord]], float]:
    return lambda own: sum(getattr(record, field) for record in own)


def _accuracy_text(own: list[RoundRecord]) -> str:
    latest = latest_accuracy(own)
    mark = " (validation)" if latest is not None and _is_validated(own) else ""
    return NO_VALUE if latest is None else percent_text(latest) + mark


def _is_validated(own: list[RoundRecord]) -> bool:
    """Whether the latest accuracy is one of the validation set."""
    return next((evaluation_set(r) for r in reversed(own) if r.test_accuracy is not None), None) == "validation"


def _own_accuracy_text(own: list[RoundRecord]) -> str:
    latest = next((record.own_accuracy for record in reversed(own) if record.own_accuracy is not None), None)
    return NO_VALUE if latest is None else percent_text(latest)


def _loss_text(own: list[RoundRecord]) -> str:
    return NO_VALUE if not own or own[-1].train_loss is None else number_text(own[-1].train_loss)


# Key -> heading, and cell text from a process's records of the training rounds.
PEER_COLUMNS: dict[str, tuple[str, Callable[[list[RoundRecord]], str]]] = {
    "rounds": ("rounds", lambda own: str(len(own))),
    "accuracy": ("accuracy", _accuracy_text),
    "own": ("own classes", _own_accuracy_text),
    "loss": ("training loss", _loss_text),
    "samples": ("samples", lambda own: number_text(own[-1].samples if own else 0)),
    "steps": ("steps", lambda own: number_text(own[-1].steps if own else 0)),
    "train": ("train", lambda own: seconds_text(_sum("train_seconds")(own))),
    "exchange": ("exchange", lambda own: seconds_text(_sum("exchange_seconds")(own))),
    "wait": ("wait", lambda own: seconds_text(_sum("wait_seconds")(own))),
    "evaluate": ("evaluate", lambda own: seconds_text(_sum("evaluate_seconds")(own))),
    "sent": ("sent", lambda own: bytes_text(_sum("bytes_sent")(own))),
    "received": ("received", lambda own: bytes_text(_sum("bytes_received")(own))),
}


def _columns(run: RecordedRun) -> list[str]:
    """Headings of the table of processes; with clients, also their missed rounds."""
    headings = [heading for heading, _ in PEER_COLUMNS.values()]
    return headings if run.coordinator is None else [headings[0], "missed", *headings[1:]]


def _process_rows(run: RecordedRun) -> list[tuple[str, str, dict[str, str]]]:
    """One row for each process: name, mark of one that was lost, and cells by column."""
    rows = []
    clients = participation(run) if run.coordinator is not None else ()
    for process, name in enumerate(run.topology.names):
        own = of_phase(run.records[process], "train")
        cells = {key: text(own) for key, (_, text) in PEER_COLUMNS.items()}
        if process == run.coordinator:
            cells = {"rounds": cells.pop("rounds"), "missed": NO_VALUE, **cells, "steps": NO_VALUE, "train": NO_VALUE}
        elif clients:
            missed = str(len(clients[process].missed))
            cells = {"rounds": cells.pop("rounds"), "missed": missed, **cells, "evaluate": NO_VALUE}
        mark = "no records" if name in run.uncollected else "" if process in run.survivors else "lost"
        rows.append((name, mark, cells))
    return rows
