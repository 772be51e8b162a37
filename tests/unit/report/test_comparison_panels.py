"""Panels of a comparison with too many entries for one plot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.comparison_runs import make_run

from p2pfl.report import style
from p2pfl.report.compare import Entry, load_entries
from p2pfl.report.compare.accuracy import accuracy_against
from p2pfl.report.compare.consensus import draw_distances
from p2pfl.report.compare.line_styles import LineStyle
from p2pfl.report.compare.panels import MOST_LINES, arrange, needs_panels
from p2pfl.report.compare.plots import PLOTS, plots_of
from p2pfl.topology import make_topology

PARTITIONS = ("iid", "dirichlet:0.5", "dirichlet:0.1")


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Three topologies on three partitions, and plain SGD."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        make_run(folder / f"{kind}-{place}", topology=make_topology(kind, 4), partition=partition, rounds=2)
        for kind in ("ring", "star", "complete")
        for place, partition in enumerate(PARTITIONS)
    ]
    return load_entries([*runs, make_run(folder / "sgd", "sgd", rounds=2)])


def test_each_partition_has_a_panel_with_the_same_lines(entries: list[Entry]) -> None:
    found = arrange(entries)
    assert found.dimension == "partition"
    assert [panel.title for panel in found.panels] == list(PARTITIONS)
    for panel in found.panels:
        assert [line.name for line in panel.lines] == ["ring-4", "star-4", "complete-4", "SGD"]
    looks: dict[str, set[LineStyle]] = {}
    for panel in found.panels:
        for line in panel.lines:
            looks.setdefault(line.name, set()).add(replace(line.style, gid=""))
    assert {len(own) for own in looks.values()} == {1}
    assert len(set.union(*looks.values())) == len(looks)
    for panel in found.panels:
        assert all(entries[int(line.style.gid.removeprefix("entry-"))] is line.entry for line in panel.lines)


def test_algorithms_or_topologies_are_panels_where_the_partition_is_one(entries: list[Entry]) -> None:
    one = [entry for entry in entries if entry.label.endswith(", iid")]
    many = [replace(one[0], label=f"ring-4, lr 0.{number}") for number in range(9)]
    found = arrange([*many, *one[1:], entries[-1]])
    assert found.dimension == "topology"
    assert [panel.title for panel in found.panels] == ["ring-4", "star-4", "complete-4"]
    assert [line.name for line in found.panels[1].lines] == ["iid", "SGD"], "a baseline in each panel"


def test_of_too_many_lines_the_best_and_the_worst_have_colors(
    monkeypatch: pytest.MonkeyPatch, entries: list[Entry]
) -> None:
    many = [replace(entries[0], label=f"run {number}") for number in range(12)]
    places = {entry.label: (number * 5) % 12 / 12 for number, entry in enumerate(many)}
    monkeypatch.setattr("p2pfl.report.compare.panels.accuracy_at_end", lambda entry: places[entry.label])
    found = arrange(many)
    assert (found.dimension, len(found.panels)) == ("", 1)
    colored = {line.name for line in found.panels[0].lines if not line.style.is_faint}
    ranked = sorted(places, key=lambda label: places[label])
    assert colored == {ranked[0], *ranked[-6:]}
    with style.styled():
        figure = accuracy_against("samples")(many)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "5 others"
    assert any("the most accurate, and the worst" in plot.caption for plot in plots_of(many))


@pytest.mark.parametrize("axis", ["samples", "bytes"])
def test_panels_share_their_axes_and_one_legend(entries: list[Entry], axis: str) -> None:
    with style.styled():
        figure = accuracy_against(axis)(entries)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == list(PARTITIONS)
    assert len({axes.get_ylim() for axes in shown}) == len({axes.get_xlim() for axes in shown}) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ring-4", "star-4", "complete-4", "SGD"]
    drawn = {line.get_gid() for axes in shown for line in axes.get_lines()}
    assert {f"entry-{number}" for number in range(len(entries))} <= drawn


def test_distances_are_in_the_panels_of_the_accuracies(entries: list[Entry]) -> None:
    with style.styled():
        figure = draw_distances(entries)
    assert [axes.get_title() for axes in figure.axes] == list(PARTITIONS)
    assert figure.axes[1].get_yscale() == "log"
    (legend,) = figure.legends
    assert "SGD" not in [text.get_text() for text in legend.get_texts()]


def test_few_entries_keep_their_plots(entries: list[Entry]) -> None:
    assert needs_panels(entries)
    assert plots_of(entries[:MOST_LINES]) == PLOTS
    wide = {plot.name: plot for plot in plots_of(entries)}
    assert all(plot.wide for plot in wide.values())
    assert wide["accuracy-samples"].caption.endswith(" One panel for each partition.")
    assert "panel" not in wide["time"].caption
