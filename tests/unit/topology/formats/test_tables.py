"""Text files of rows: look-alikes of edge lists are refused, never misread."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.raw_files import check_refused, read

from p2pfl.topology.raw import RawGraph


def edges(raw: RawGraph) -> set[str]:
    return {f"{edge.source}-{edge.target}" for edge in raw.edges}


READ = {
    "switches.edges": ("r1 sw#1\nr2 r1\nr3 r2\nr3 sw#2\n", {"r1-sw#1", "r2-r1", "r3-r2", "r3-sw#2"}),
    "switches.txt": ("r1 sw#1\nr2 r1 # uplink\nr3 r2 #\nr3 sw#2\n", {"r1-sw#1", "r2-r1", "r3-r2", "r3-sw#2"}),
    "switches.adjlist": ("# made\nr1 sw#1 # first\nr2 r1\nsw#2 r2\n", {"r1-sw#1", "r2-r1", "sw#2-r2"}),
    "languages.edgelist": ("C# Java\nJava F#\n", {"C#-Java", "Java-F#"}),
    "quoted.csv": ('a,"#x"\n"#x",b\n', {"a-#x", "#x-b"}),
    "quoted.txt": ('a "#x"\n"#x" b\n', {"a-#x", "#x-b"}),
    "noted.csv": ("#source,target\na,b\n# b,c\nb,d\n#a,d\n", {"a-b", "b-d"}),
    "section.txt": ("#Nodes Edges\n% 3 4\n1 2\n#-- next part --\n2 3\n", {"1-2", "2-3"}),
    "star.edgelist": ("ann hub 3\nbob hub 1\ncy hub 2\n", {"ann-hub", "bob-hub", "cy-hub"}),
    "hub.edgelist": ("hub 1 0.5\nhub 2 0.5\n", {"hub-1", "hub-2"}),
    "few.edgelist": ("a 1\na 2\n", {"a-1", "a-2"}),
    "triples.csv": ("source,relation,target\n1,pp,2\n2,pp,3\n", {"1-2", "2-3"}),
    "fraction.csv": ("source,target\n1.1,1.2\n1.2,2.1\n", {"1.1-1.2", "1.2-2.1"}),
    "whole.txt": ("1.0 2.0\n2.0 3.0\n", {"1.0-2.0", "2.0-3.0"}),
    "ring.edgelist": ("0 1 2\n1 2 0\n2 0 1\n", {"0-1", "1-2", "2-0"}),
}


@pytest.mark.parametrize("file", READ)
def test_rows_keep_their_labels(tmp_path: Path, file: str) -> None:
    content, meant = READ[file]
    assert edges(read(tmp_path, file, content)) == meant


def test_rows_that_are_commented_out_are_counted(tmp_path: Path) -> None:
    assert "1 row is commented out" in "; ".join(read(tmp_path, "a.csv", "a,b\n#a,c\nb,c\n").notes)


MARKED = "may be a row whose label starts with"
TRIPLES = "looks like triples"
RECORDS = "starts with a type of record"
COUNTS = "may be an edge or the numbers of nodes and edges"
MATRIX = "looks like an adjacency matrix"
POINTS = "may be coordinates of points"
BRACKETS = "has brackets around"
REFUSED = {
    "tags.csv": ("source,target,w\nalice,#covid,3\nbob,#covid,1\nalice,bob,1\n#covid,#vaccine,9\n", MARKED),
    "first.csv": ("#covid,#vaccine\nalice,#covid\n", MARKED),
    "peer.txt": ("#covid alice\nalice bob\nbob #covid\n", "'#covid' may be a label or a comment"),
    "urls.csv": ("//cdn.x/a,b\nb,c\n//cdn.x/a,//cdn.x/b\n", MARKED),
    "percent.tsv": ("a\tb\n%x\tb\nb\tc\n", MARKED),
    "tags.adjlist": ("alice bob\n#covid bob cy\nbob cy\n", MARKED),
    "tail.adjlist": ("alice #covid bob\nbob cy\n", "'#covid' may be a label or a comment"),
    "lgl.txt": ("# ann\nbob 1.0\ncy 1.0\n# bob\ncy 1.0\n", "a file of LGL"),
    "lgl.edgelist": ("# ann\nbob\n# bob\ncy\n", "a file of LGL"),
    "sif.txt": ("7157 pp 4193\n4193 pp 672\n672 pd 7157\n", TRIPLES),
    "knows.csv": ("12,knows,15\n15,knows,16\n", TRIPLES),
    "sif.adjlist": ("7157 pp 4193 672\n4193 pp 672\n", TRIPLES),
    "dimacs.txt": ("e 1 2\ne 2 3\n", RECORDS),
    "dimacs.edgelist": ("a 1 2 7\na 2 3 9\n", RECORDS),
    "dimacs.adjlist": ("e 1 2\ne 2 3\n", RECORDS),
    "gspan.txt": ("v 0 1\nv 1 1\ne 0 1 1\n", RECORDS),
    "gspan.edges": ("t # 0\nv 0 1\nv 1 1\ne 0 1 1\n", RECORDS),
    "pose.txt": ("VERTEX_SE2 0 0 0 0\nVERTEX_SE2 1 1 0 0\nEDGE_SE2 0 1 1 0 0\n", RECORDS),
    "words.csv": ("link,0,1\nlink,1,2\n", RECORDS),
    "other.txt": ("connect 0 1\nconnect 1 2\nconnect 2 0\n", RECORDS),
    "isolated.txt": ("6 4\n1 2\n2 3\n3 4\n4 5\n", COUNTS),
    "zero.edgelist": ("7 5\n0 1\n1 2\n2 3\n3 4\n4 5\n", COUNTS),
    "both.txt": ("4 2\n0 1\n1 0\n1 2\n2 1\n", COUNTS),
    "flag.txt": ("5 4 0\n0 1\n1 2\n2 3\n3 4\n", COUNTS),
    "symmetric.csv": ("1,2,3\n2,5,1\n3,1,4\n", MATRIX),
    "laplacian.txt": ("2 -1 -1\n-1 1 0\n-1 0 1\n", MATRIX),
    "stochastic.csv": ("0.5,0.25,0.25\n0.5,0.5,0\n0,0.25,0.75\n", MATRIX),
    "upper.csv": ("0,2,3\n0,0,1\n0,0,0\n", MATRIX),
    "incidence.csv": ("1,0,1,0\n1,1,0,0\n0,1,1,1\n", MATRIX),
    "named.csv": (",e1,e2\nA,1,0\nB,1,1\nC,0,1\n", "a table with names of columns and rows"),
    "cornered.csv": ("node,e1,e2\nA,1,0\nB,1,1\nC,0,1\n", "a table with names of columns and rows"),
    "scipy.tsv": ("  (0, 1)\t1\n  (1, 2)\t1\n", BRACKETS),
    "scipy.csv": ("(0, 1)\t1\n(1, 2)\t1\n", BRACKETS),
    "middle.tsv": ("1\t(0, 1)\t2\n2\t(1, 2)\t3\n", BRACKETS),
    "xy.csv": ("x,y\n1,2\n2,3\n", POINTS),
    "xyname.csv": ("x,y,name\n1,2,a\n2,3,b\n", POINTS),
    "latlon.csv": ("lat,lon\n1,2\n2,3\n", POINTS),
    "fine.csv": ("x,y\n0.5,0.25\n0.25,0.75\n", POINTS),
    "bare.txt": ("0.5 0.25\n0.25 0.75\n", POINTS),
    "caida.txt": ("1|11537|0\n11537|3|-1\n", r"separated by '\|'"),
    "glued.txt": ("a->b\nb->c\n", "separated by '->'"),
}


@pytest.mark.parametrize("file", REFUSED)
def test_rows_of_another_kind_are_refused(tmp_path: Path, file: str) -> None:
    content, message = REFUSED[file]
    check_refused(tmp_path, file, content, message)


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    for header in ("node1\tnode2\tscore", "i\tj\tv", "row\tcol\tval"):
        raw = read(tmp_path, "a.tsv", f"{header}\n1\t2\t0.5\n2\t3\t0.7\n")
        assert f"not used: {header.split()[2]!r} (the weight's must be named weight)" in "; ".join(raw.notes)
    raw = read(tmp_path, "a.csv", "source,target,weight,since,by\na,b,1,2020,x\n")
    assert "; ".join(raw.notes).endswith("its other columns are not used: 'since' and 'by'")
