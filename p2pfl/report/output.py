"""Output files: plots, pages from templates, and atomically written text."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from p2pfl.errors import ConfigError, one_line, unwritable
from p2pfl.report import style
from p2pfl.run.paths import PLOTS_FOLDER
from p2pfl.util.files import opener
from p2pfl.util.signals import shielded
from p2pfl.util.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Subject = TypeVar("Subject")  # a run, or the entries of a comparison


@dataclass(frozen=True)
class Plot(Generic[Subject]):
    """One plot: file name without extension, title, caption, and drawing function."""

    name: str
    title: str
    caption: str
    draw: Callable[[Subject], Figure]
    wide: bool = False


def draw_plots(plots: Sequence[Plot[Subject]], subject: Subject, folder: Path) -> None:
    """Write plots as PNG and SVG to a folder's `plots/`.

    Raises ConfigError where they cannot be written.
    """
    target = folder / PLOTS_FOLDER
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(unwritable(target, error)) from None
    with style.styled():
        for plot in plots:
            figure = plot.draw(subject)
            style.lay_out(figure)
            for kind in ("png", "svg"):
                style.save(figure, target / f"{plot.name}.{kind}")


def remove_plots(plots: Sequence[Plot[Any]], folder: Path) -> None:
    """Remove plots that no longer belong to a folder, if it has them."""
    for plot in plots:
        for kind in ("png", "svg"):
            with contextlib.suppress(OSError):
                (folder / PLOTS_FOLDER / f"{plot.name}.{kind}").unlink()


def check_drawing() -> None:
    """Check that plots and pages can be made on this machine.

    Draws an empty plot in memory. Raises ConfigError where that fails.
    """
    try:
        with shielded(), style.styled():  # an interrupt amid an import may come out as that import's failure
            import jinja2  # noqa: F401  the page's templates need it

            figure = style.new_figure(1.0, 1.0)
            for kind in ("png", "svg"):
                figure.savefig(io.BytesIO(), format=kind)
    except Exception as error:
        chosen = os.environ.get("MPLBACKEND")
        where = "matplotlib" if chosen is None else f"MPLBACKEND={chosen}"
        remedy = "install it again" if chosen is None else "unset that variable"
        raise ConfigError(f"{where}: the report cannot be drawn ({one_line(error)[:120]}); {remedy}") from None


def page_text(template: str, plots: Sequence[Plot[Any]], folder: Path, **values: Any) -> str:
    """HTML of a page, from a template in this package and the plots in `folder`.

    `draw_plots` must have written the plots before. Invisible characters of labels and settings are shown as escapes.
    """
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    # Only matplotlib's own elements are trusted; it escapes the peers' and runs' names in them.
    pictures = [
        (plot, Markup(style.inline_svg(folder / PLOTS_FOLDER / f"{plot.name}.svg", plot.name))) for plot in plots
    ]
    return visible(environment.get_template(template).render(plots=pictures, **values))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises ConfigError where it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8", opener=opener) as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(unwritable(path, error)) from None
