"""A run's numbers as the short texts that a line or a table cell holds."""

from __future__ import annotations

from p2pfl.ui.state import Plan, Row

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def bytes_text(count: int) -> str:
    """Such as 12.3 MB."""
    size, name = next((unit for unit in _BYTE_UNITS if count >= unit[0]), (1, "B"))
    return f"{count} B" if size == 1 else f"{count / size:.1f} {name}"


def clock_text(seconds: float) -> str:
    """Such as 2:31 or 1:02:31."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def count_text(done: int, total: int) -> str:
    """Such as 3/8; a share where numbers are long, as those of bytes; empty where the end is unknown."""
    if total <= 0:
        return ""
    return f"{done}/{total}" if total <= 10_000 else f"{100 * done / total:.0f} %"


def cells(plan: Plan, row: Row) -> dict[str, str]:
    """Column -> text; empty where a round has no such number."""
    mixing = row.phase == "consensus"
    number = f"mix {row.round - plan.rounds}/{plan.consensus_rounds}" if mixing else f"{row.round}/{plan.rounds}"
    return {
        "round": number,
        "loss": "" if row.loss is None else f"{row.loss:.3f}",
        "accuracy": "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        "worst": "" if row.worst is None else f"{100 * row.worst:.1f} %",
        "distance": "" if row.distance is None else f"{row.distance:.3g}",
        "samples/s": "" if row.samples_per_second is None else f"{row.samples_per_second:,.0f}",
        "sent": bytes_text(row.bytes_sent),
    }


def line(plan: Plan, row: Row, seconds_left: float | None) -> str:
    """A finished round in one line."""
    text = cells(plan, row)
    mixing = row.phase == "consensus"
    worst = f" (worst {text['worst']})" if text["worst"] else ""
    parts = [
        text["round"] if mixing else f"round {text['round']}",
        f"loss {text['loss']}" if text["loss"] else "",
        f"{'consensus model' if mixing else 'accuracy'} {text['accuracy']}{worst}" if text["accuracy"] else "",
        f"consensus distance {text['distance']}" if text["distance"] else "",
        f"{text['samples/s']} samples/s" if text["samples/s"] else "",
        f"{text['sent']} sent",
        "" if seconds_left is None or mixing else f"{clock_text(seconds_left)} left",
    ]
    return "  ".join(part for part in parts if part)
