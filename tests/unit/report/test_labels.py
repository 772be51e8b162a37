"""Labels with bidirectional controls and invisible characters.

They are escaped where they are shown, and kept where they are stored.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import networkx as nx
import pytest
from tests.support.runs import make_run

from p2pfl.cli import main
from p2pfl.report import style, summarize, write_summary
from p2pfl.topology import load_topology, save_topology
from p2pfl.topology.graph import build_topology
from p2pfl.ui import RunInfo, make_display
from p2pfl.ui.stream import SafeStream
from p2pfl.util.text import visible

EVIL = "a\u202egnp\u2066.b\u200b\u3164"
SHOWN = r"a\u202egnp\u2066.b\u200b\u3164"
# One of each kind: bidirectional controls, zero width, soft hyphen, tags, variation selectors, blanks, private use.
HIDDEN = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\u200b\u200c\u200d\u2060\ufeff\xad"
HIDDEN += "\U000e0041\ufe0f\U000e0100\u180b\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\ue000\u2028\u2029\ufff9\x85\x9b"


def test_only_invisible_characters_are_escaped() -> None:
    for character in HIDDEN:
        assert visible(character) == character.encode("unicode_escape").decode()
    plain = "abc äöü ñ 漢字 עברית العربية e\u0301 🙂 \\u202e \x1b[31m\r\n\t"
    assert visible(plain) == plain
    assert visible("\x1b[31m\n", controls=True) == r"\x1b[31m\x0a"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    graph = nx.relabel_nodes(nx.cycle_graph(3), {0: EVIL, 1: "b", 2: "c"})
    run = make_run(tmp_path / "run", build_topology(graph, name=f"net{EVIL}", source="test"), rounds=1)
    write_summary(run, summarize(run, lost_peers=[EVIL], restarts={EVIL: 2}))
    return run


@pytest.mark.processes
def test_pages_plots_and_terminal_show_escapes_and_files_keep_the_label(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn: list[str] = []

    def save(figure: object, path: Path) -> None:
        from matplotlib.text import Text

        drawn.extend(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]
        path.write_text("<svg></svg>")

    monkeypatch.setattr(style, "save", save)
    monkeypatch.setenv("COLUMNS", "250")
    both = tmp_path / "both"
    assert main(["report", str(run)]) == 0
    assert main(["compare", str(run), "--allow-mismatch", "--run-dir", str(both)]) == 0
    assert main(["topology", "show", str(run / "topology.graphml"), "-o", str(tmp_path / "t.png")]) == 0
    captured = capfd.readouterr()
    texts = [(run / "report.html").read_text(), (both / "report.html").read_text(), captured.out, captured.err, *drawn]
    assert not any(character in text for text in texts for character in EVIL if not character.isascii())
    assert SHOWN in texts[0]
    assert any(SHOWN[:8] in text for text in drawn)
    assert SHOWN in captured.out
    # What is stored keeps it.
    assert load_topology(run / "topology.graphml").names[0] == EVIL
    assert json.loads((run / "summary.json").read_text())["lost_peers"] == [EVIL]
    assert EVIL in (both / "comparison.csv").read_text(encoding="utf-8")


def test_error_lines_and_the_display_show_escapes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    apart = tmp_path / f"{EVIL}.json"
    apart.write_text(json.dumps({"nodes": [{"id": EVIL}, {"id": "b"}], "edges": []}))
    assert main(["topology", "show", str(apart)]) == 2
    assert SHOWN in capfd.readouterr().err
    for terminal in (False, True):
        stream = io.StringIO()
        info = RunInfo("gossip", EVIL, (EVIL, "b"), 1, 0, tmp_path, 8)
        with make_display(info, stream, terminal=terminal) as display:
            display.warn(f"peer {EVIL}: lost\x1b[2J")
        assert SHOWN in stream.getvalue()
        assert "\u202e" not in stream.getvalue()
        assert "\x1b[2J" not in stream.getvalue()
    stream = io.StringIO()
    SafeStream(stream).write(f"{EVIL}\n")
    assert stream.getvalue() == f"{SHOWN}\n"


def test_labels_are_preserved_in_every_topology_format(tmp_path: Path) -> None:
    topology = build_topology(nx.path_graph([EVIL, "b"]), name="t", source="t")
    for extension in (".graphml", ".gml", ".gexf", ".json", ".edgelist", ".adjlist"):
        save_topology(topology, tmp_path / f"t{extension}")
        assert set(load_topology(tmp_path / f"t{extension}").names) == {EVIL, "b"}
