"""Plot style and picture files: the same bytes for the same run, as PNG and SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfl.errors import ConfigError, unreadable, unwritable
from p2pfl.util.files import read_text
from p2pfl.util.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sentinels: `inline_svg` turns these three into the page's own colors, so that they follow light and dark.
INK = "#1d2530"
SURFACE = "#fefefe"
LINE = "#d5d9e0"

# Okabe & Ito's palette, which color-blind readers can tell apart; line styles, markers and hatches help.
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILION = "#d55e00"
SKY = "#56b4e9"
GRAY = "#8a909a"

MAP = "cividis"

WIDTH, HEIGHT = 6.2, 3.7  # inches, of a plot that fills half a page

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": SURFACE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": SURFACE,
    "savefig.facecolor": SURFACE,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "p2pfl",
}


@contextmanager
def styled() -> Iterator[None]:
    """Context with this style on matplotlib's defaults; ignores any matplotlibrc."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of a size in inches, without a window or pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def lay_out(figure: Figure) -> None:
    """Compute the layout of a drawn figure once.

    Otherwise each save computes it again, which takes 40 % of the time.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def empty_plot(figure: Figure, axes: Axes, why: str) -> Figure:
    """The figure with a sentence in place of a plot."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", style="italic")
    axes.set(xticks=[], yticks=[])
    return figure


def group_id(index: int) -> str:
    """Id of the elements of an entry; as several share it, their class in SVG."""
    return f"entry-{index}"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by extension.

    Raises ConfigError for other extensions or an unwritable path.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ConfigError(f"{path}: pictures are written as .png or .svg; choose one of these extensions")
    options = {"dpi": 160} if kind == "png" else {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))}
    try:
        if kind == "svg":
            text = io.StringIO()
            figure.savefig(text, format=kind, **options)
            path.write_text(re.sub(r'\bid="(entry-\d+)"', r'class="\1"', text.getvalue()), encoding="utf-8")
        else:
            figure.savefig(path, format=kind, **options)
    except OSError as error:
        raise ConfigError(unwritable(path, error)) from None


def inline_svg(path: Path, name: str) -> str:
    """SVG element for a page: unique ids, full width, colors of the page.

    `name` (a-z and dashes) prefixes the ids, so that those of several pictures do not collide. Raises
    ConfigError for an unreadable path.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from None
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', text)
    for sentinel, color in ((INK, "currentColor"), (SURFACE, "var(--surface)"), (LINE, "var(--line)")):
        text = text.replace(sentinel, color)
    return text


def plot_text(text: str, limit: int = 0) -> str:
    """Text for matplotlib: `$` escaped, shortened to `limit` if given.

    matplotlib would read `$` as mathematics. Invisible characters become escapes.
    """
    text = visible(text)
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.replace("$", r"\$")
