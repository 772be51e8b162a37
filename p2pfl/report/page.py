"""The report page: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from p2pfl.config import to_toml
from p2pfl.errors import ConfigError
from p2pfl.records import RoundRecord
from p2pfl.report import style
from p2pfl.report.plots import PLOTS, PLOTS_FOLDER, draw_plots
from p2pfl.report.run import CONFIG_FILE, Run, load_run, of_phase
from p2pfl.report.summary import FIELDS, SUMMARY_FILE, read_summary, summarize
from p2pfl.report.units import MISSING, bytes_text, number_text, percent_text, seconds_text

REPORT_FILE = "report.html"
_MUCH_WAITING = 0.3  # share of the time
_FAR_BEHIND = 0.05  # accuracy of the worst peer below the mean


def write_report(run_dir: Path) -> Path:
    """Draw the plots and write `report.html`, from what the peers recorded; returns its path.

    Works for an interrupted run too, and for one that finished no round. From an existing `summary.json` it
    takes what the peers could not record: mode, lost peers, versions and the launcher's seconds. Raises
    ConfigError where the run directory cannot be read or written.
    """
    known = read_summary(run_dir) if (run_dir / SUMMARY_FILE).exists() else {}
    facts = {name: known[name] for name in ("mode", "lost_peers", "versions", "seconds") if known.get(name)}
    summary = summarize(run_dir, **facts)
    run = load_run(run_dir, summary["lost_peers"])
    path = run_dir / REPORT_FILE
    temporary = path.with_suffix(".html.tmp")
    try:
        draw_plots(run)
        temporary.write_text(_page(run, summary), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _page(run: Run, summary: Mapping[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    folder = run.path / PLOTS_FOLDER
    return environment.get_template("page.html").render(
        title=f"{run.name}, {summary['mode']}",
        subtitle=_subtitle(run, summary),
        summary=summary,
        tiles=_tiles(summary),
        warnings=_warnings(run, summary),
        # Only matplotlib's own elements are trusted; it escapes the peers' names in them.
        plots=[(plot, Markup(style.inline_svg(folder / f"{plot.name}.svg", plot.name))) for plot in PLOTS],
        rows=[(name, meaning, _value_text(name, summary[name])) for name, meaning in FIELDS.items()],
        columns=[heading for heading, _ in PEER_COLUMNS.values()],
        peers=[_peer_cells(run, peer) for peer in range(run.topology.n)],
        command=_command(run, summary),
        settings=to_toml(run.config),
    )


def _subtitle(run: Run, summary: Mapping[str, Any]) -> str:
    settings = run.config
    task = f"{settings.model.model} on {settings.data.dataset}"
    rounds = f"{summary['rounds_completed']} of {summary['rounds']} rounds"
    return f"{task}, {summary['peers']} peers, {rounds}, seed {summary['seed']}"


def _command(run: Run, summary: Mapping[str, Any]) -> str:
    words = ["python", "run_peers.py", summary["mode"], "--config", str(run.path / CONFIG_FILE)]
    return shlex.join(words)


_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("consensus_accuracy", "mean_peer_accuracy", "worst_peer_accuracy"), percent_text),
    **dict.fromkeys((name for name in FIELDS if name.endswith("seconds")), seconds_text),
    **dict.fromkeys((name for name in FIELDS if "bytes" in name), bytes_text),
    "lost_peers": lambda names: ", ".join(names) or "none",
    "versions": lambda versions: ", ".join(f"{name} {version}" for name, version in versions.items()) or MISSING,
    "seed": str,
}


def _value_text(name: str, value: Any) -> str:
    if value is None:
        return MISSING
    return _FORMATS.get(name, lambda v: v if isinstance(v, str) else number_text(v))(value)


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers to see first."""
    names = {
        "consensus_accuracy": "consensus model",
        "mean_peer_accuracy": "mean peer",
        "worst_peer_accuracy": "worst peer",
        "seconds": "time",
        "samples_per_second": "samples/s",
    }
    tiles = [(label, _value_text(name, summary[name])) for name, label in names.items()]
    return [*tiles, ("sent in all", bytes_text(summary["bytes_sent_total"] + summary["consensus_bytes"]))]


def _latest(own: list[RoundRecord]) -> RoundRecord | None:
    return next((record for record in reversed(own) if record.test_accuracy is not None), None)


def _sum(field: str) -> Callable[[list[RoundRecord]], float]:
    return lambda own: sum(getattr(record, field) for record in own)


def _accuracy_text(own: list[RoundRecord]) -> str:
    latest = _latest(own)
    return MISSING if latest is None or latest.test_accuracy is None else percent_text(latest.test_accuracy)


def _loss_text(own: list[RoundRecord]) -> str:
    return MISSING if not own or own[-1].train_loss is None else number_text(own[-1].train_loss)


# Key -> heading, and the cell's text from a peer's records of the training rounds.
PEER_COLUMNS: dict[str, tuple[str, Callable[[list[RoundRecord]], str]]] = {
    "rounds": ("rounds", lambda own: str(len(own))),
    "accuracy": ("test accuracy", _accuracy_text),
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


def _peer_cells(run: Run, peer: int) -> tuple[str, bool, dict[str, str]]:
    own = of_phase(run.records[peer], "train")
    lost = peer not in run.survivors
    return run.topology.names[peer], lost, {key: text(own) for key, (_, text) in PEER_COLUMNS.items()}


def _warnings(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers, in plain sentences."""
    found = []
    if summary["rounds_completed"] < summary["rounds"]:
        done = f"{summary['rounds_completed']} of {summary['rounds']}"
        found.append(f"The run is incomplete: every peer has finished {done} rounds. There is no consensus model.")
    elif summary["status"] != "complete":
        found.append("The consensus phase was not finished, so there is no consensus model.")
    if summary["lost_peers"]:
        names = ", ".join(summary["lost_peers"])
        found.append(f"Lost on the way: {names}. Means, accuracies and distances are those of the other peers.")
    return [*found, *_training_warnings(run), *_outcome_warnings(run, summary)]


def _training_warnings(run: Run) -> list[str]:
    if any(r.train_loss is None for own in run.records for r in of_phase(own, "train")):
        return ["In some rounds the training loss was not a number: training diverged. Try a smaller --lr."]
    return []


def _outcome_warnings(run: Run, summary: Mapping[str, Any]) -> list[str]:
    found = []
    parts = {name: summary[f"{name}_seconds"] or 0.0 for name in ("train", "exchange", "wait", "evaluate")}
    if parts["wait"] > _MUCH_WAITING * sum(parts.values()) > 0:
        share = parts["wait"] / sum(parts.values())
        found.append(f"Peers spent {share:.0%} of the training rounds waiting for slower neighbors.")
    mean, worst = summary["mean_peer_accuracy"], summary["worst_peer_accuracy"]
    if mean is not None and mean - worst > _FAR_BEHIND:
        found.append(f"The worst peer is {100 * (mean - worst):.1f} points below the mean of the peers.")
    model = summary["consensus_accuracy"]
    if model is not None and mean is not None and model < mean - 0.01:
        found.append(f"The consensus model is {100 * (mean - model):.1f} points below the mean of the peers.")
    start, end = summary["consensus_distance"], summary["final_consensus_distance"]
    if start and end is not None and end > 1.1 * run.config.gossip.consensus_tolerance * start:
        wanted = run.config.gossip.consensus_tolerance
        found.append(f"The consensus phase shrank disagreement to {end / start:.2g} of its start, not to {wanted:g}.")
    return found
