"""Every file that p2pfl reads, damaged at random: one line and no traceback.

More of them: P2PFL_DAMAGES=1000 pytest tests/e2e/test_damaged_files.py, for so many damages of each file.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.damage import damaged
from tests.support.dialects import yed, yed_edge, yed_node
from tests.support.runs import make_centralized, make_run
from tests.support.unrendered import leave_unrendered

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.config import to_toml
from p2pfl.report import complete_summary, summarize, write_summary
from p2pfl.topology import FORMATS, save_topology
from p2pfl.transport.keyring import make_keys

DAMAGES = int(os.environ.get("P2PFL_DAMAGES", "2"))
SEED = int(os.environ.get("P2PFL_DAMAGES_SEED", "0"))
SMALL = ("--dataset", "digits", "--width", "0.0625")
FAULTS = """
seed = 3

[[fault]]
kind = "kill"
peer = "1"
round = 1
at = "train"
restart = 2

[[fault]]
kind = "partition"
rounds = [1, 2]
parts = [["0", "1"], ["2"]]

[[fault]]
kind = "attack"
peer = "2"
rounds = [1, 2]
attack = "sign-flip"
scale = 1.5
"""

# The same ring of three in formats that are read only.
READ_ONLY = {
    "ring.csv": "Source,Target,Weight\n0,1,0.5\n1,2,0.5\n2,0,0.5\n",
    "ring.edges": "3\n0 1\n1 0\n1 2\n2 1\n2 0\n0 2\n",
    "ring.txt": "% sym\n0 1 2\n1 2\n2\n",
    "ring.net": '*Vertices 3\n1 "a"\n2 "b"\n3 "c"\n*Edges\n1 2 0.5\n*Edgeslist\n3 1 2\n',
    "ring.mtx": "%%MatrixMarket matrix coordinate real symmetric\n3 3 3\n2 1 1\n3 2 1\n1 3 1\n",
    "ring.gv": 'graph "x" { subgraph a { 0 -- 1; 1 [label="b", host="h"] } 1 -- 2 -- 0 [weight=2] }\n',
    "ring.cyjs": json.dumps(
        {"elements": {"nodes": [{"data": {"id": i, "name": f"n{i}"}} for i in "012"],
                      "edges": [{"data": {"source": u, "target": v}} for u, v in ("01", "12", "20")]}}
    ),
    "adjacency.json": json.dumps(
        {"nodes": [{"id": i} for i in range(3)], "adjacency": [[{"id": 1}, {"id": 2}], [{"id": 0}], [{"id": 0}]]}
    ),
    "yed.graphml": yed(
        "".join(yed_node(f"n{i}", f"Site {i}") for i in range(3)),
        "".join(yed_edge(f"n{i}", f"n{(i + 1) % 3}", "none", "none") for i in range(3)),
    ),
    "zoo.gml": 'graph [\n node [ id 0 label "&#228; b" ]\n node [ id 1 label c ]\n edge [ source 0 target 1 w 1e5 ] ]',
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A file to damage, and the commands that read it.

    `given`: the user names the file, so an error must name it.
    """

    file: str
    commands: tuple[tuple[str, ...], ...]
    given: bool = False


def _config(mode: str = "gossip") -> str:
    extra = {} if mode == "gossip" else {"num_clients": 3, "num_selected": 2}
    return to_toml(RunConfig.of(None, mode, dataset="digits", width=0.0625, rounds=2, **extra))  # type: ignore[arg-type]


def _everything(folder: Path) -> None:
    """One of each file, whole."""
    ring = make_topology("ring", 3)
    for extension in FORMATS:
        save_topology(ring, folder / f"ring{extension}")
    for name, content in READ_ONLY.items():
        (folder / name).write_text(content)
    (folder / "gossip.toml").write_text(_config())
    (folder / "centralized.toml").write_text(_config("centralized"))
    (folder / "faults.toml").write_text(FAULTS)
    shutil.copy(folder / "ring.graphml", folder / "keyed.graphml")
    make_keys(folder / "keyed.graphml", folder / "keys")
    run = make_run(folder / "run", ring, rounds=2)
    (run / "faults.toml").write_text(FAULTS)
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("[exchange]\n", '[exchange]\nfaults = "faults.toml"\n'))
    write_summary(run, summarize(run, seconds=9.0, lost_peers=["2"], restarts={"1": 1}, versions={"torch": "2"}))
    star = make_centralized(folder / "star", clients=3, rounds=3, missing={2: ["2"]})
    write_summary(star, summarize(star))
    assert main(["compare", str(run), str(star), "--allow-mismatch", "--run-dir", str(folder / "both")]) == 0


_RUN = (
    ("report", "run"),
    ("compare", "run", "star", "--allow-mismatch", "--run-dir", "new"),
    ("gossip", "--resume", "run", "--dry-run"),
)
_STAR = (("report", "star"), ("centralized", "--resume", "star", "--dry-run"))
CASES = [
    Case("gossip.toml", (("gossip", "ring.graphml", "--config", "gossip.toml", "--dry-run"),), True),
    Case("gossip.toml", (("compare", "ring.graphml", "--config", "gossip.toml", "--dry-run"),), True),
    Case("centralized.toml", (("centralized", "--config", "centralized.toml", "--dry-run"),), True),
    Case("faults.toml", (("gossip", "ring.graphml", *SMALL, "--faults", "faults.toml", "--dry-run"),), True),
    *[Case(f"ring{end}", (("topology", "show", f"ring{end}", "-o", "ring.png"),), True) for end in FORMATS],
    *[Case(name, (("topology", "show", name, "-o", "ring.png"),), True) for name in READ_ONLY],
    *[Case(f"ring{end}", (("keys", f"ring{end}", "-o", "new"),), True) for end in FORMATS if "list" not in end],
    Case("keyed.graphml", (("gossip", "keyed.graphml", "--keys", "keys", *SMALL, "--dry-run"),), True),
    Case("keys/1.key", (("gossip", "keyed.graphml", "--keys", "keys", *SMALL, "--dry-run"),), True),
    *[Case(f"run/{name}", _RUN) for name in ("config.toml", "faults.toml", "topology.graphml", "summary.json")],
    *[Case(f"run/peers/1/{name}", _RUN) for name in ("rounds.jsonl", "sketches.f32")],
    *[Case(f"star/{name}", _STAR) for name in ("config.toml", "topology.graphml", "summary.json")],
    *[Case(f"star/peers/{who}/rounds.jsonl", _STAR) for who in ("0", "coordinator")],
    Case("both/comparison.json", (("report", "both"),), True),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working directory with every kind of file.

    Plots are put together but not rendered.
    """
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        leave_unrendered(patch)
        patch.setenv("COLUMNS", "120")
        _everything(folder)
        patch.chdir(folder)
        yield folder


def _clean() -> None:
    shutil.rmtree("new", ignore_errors=True)
    for name in ("run/report.html", "star/report.html"):
        Path(name).unlink(missing_ok=True)


def _problem(case: Case, status: int, err: str) -> str:
    """Problem with a command's status or output; empty where there is none."""
    lines = err.splitlines()
    said = [line for line in lines if not line.startswith(("p2pfl: warning: ", "p2pfl: note: "))]
    if status not in (0, 2):
        return f"status {status}"
    if not all(line.startswith("p2pfl: ") for line in lines) or len(said) != (status != 0):
        return "not one line"
    if status and case.given and case.file not in said[0]:
        return "does not name the file"
    return "invisible characters" if "\u202e" in err else ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.commands[0][0]}-{case.file}")
def test_a_damaged_file_is_one_line(case: Case, whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = whole / case.file
    content = path.read_bytes()
    saved = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    rng = random.Random(f"{SEED}/{case.file}/{case.commands[0][0]}")
    found = {}
    draws = case.commands[0][0] == "report"  # and takes its time
    for _ in range(max(1, DAMAGES // 2) if draws else DAMAGES):
        data = damaged(content, rng)
        path.write_bytes(data)
        words = rng.choice(case.commands)
        capfd.readouterr()
        status = main(list(words))
        captured = capfd.readouterr()
        problem = _problem(case, status, captured.err) or ("invisible" if "\u202e" in captured.out else "")
        if problem:
            found[captured.err[-60:]] = f"{problem}: {shlex.join(words)}\n{captured.err[-1500:]}\n{data[:1500]!r}"
        for p, before in saved.items():
            if not p.exists() or p.read_bytes() != before:
                p.write_bytes(before)
        _clean()
    assert not found, "\n\n".join(found.values())


def test_a_complete_run_is_told_from_its_records_whatever_its_summary_lacks(
    whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = whole / "run" / "summary.json"
    summary = json.loads(path.read_text())
    for field in sorted(set(summary) - {"status"}):
        for fields in ({k: v for k, v in summary.items() if k != field}, {**summary, field: [{}]}):
            path.write_text(json.dumps(fields))
            assert complete_summary(whole / "run") is not None or field == "lost_peers"
    path.write_text(json.dumps({"status": "complete"}))
    assert main(["gossip", "--resume", "run"]) == 0
    assert "consensus model: 91.25%" in capfd.readouterr().out


RECORDS = {
    '"round":2,': ('"round":1,', "more than one record of round 1"),
    '"round":3,"phase":"consensus"': ('"round":3,"phase":"train"', "1 record does not belong to this run"),
    '"sent_to":{"0"': ('"sent_to":{"z"', "1 record does not belong to this run"),
    '"seconds":3.0': ('"seconds":1e300', "no round record in line"),
    '"bytes_sent":2000000': ('"bytes_sent":-1', "no round record in line"),
    '"phase":"train"': ('"phase":' + "[" * 100_000, "no round record in line"),
}


@pytest.mark.usefixtures("unrendered_plots")
@pytest.mark.parametrize("part", RECORDS, ids=["round", "phase", "neighbor", "seconds", "bytes", "depth"])
def test_records_that_cannot_be_of_the_run_are_left_out_and_said(
    part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", make_topology("ring", 3), rounds=2)
    path = run / "peers" / "1" / "rounds.jsonl"
    new, said = RECORDS[part]
    text = path.read_text()
    assert part in text
    path.write_text(text.replace(part, new, 1))
    assert main(["report", str(run)]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert all(line.startswith("p2pfl: warning: ") for line in lines)
    assert any(f"{path}: " in line and said in line for line in lines), lines
