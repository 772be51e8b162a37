"""The commands as a user types them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.support import commands
from tests.support.helpers import free_ports, token_file
from tests.support.paths import MODELS, ROOT

from p2pfl import RunConfig, make_topology
from p2pfl.cli import COMMANDS, main
from p2pfl.errors import ConfigError
from p2pfl.run.directory import create_run_dir
from p2pfl.topology import load_topology, save_topology

pytestmark = pytest.mark.usefixtures("blank_plots")

RING = str(ROOT / "topologies" / "ring-4.graphml")


def failing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that must be refused with exit status 2."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gosip"], "gosip: no such command; did you mean gossip? Known are gossip, "),
        (["topology"], "topology make"),
        (["gossip"], "name a topology file"),
        (["gossip", "nowhere.gml"], "nowhere.gml: no such file"),
        (["gossip", RING, "--rond", "3"], "there is no option --rond; did you mean --rounds?"),
        (["gossip", RING, "--round", "3"], "did you mean --rounds?"),
        (["gossip", RING, "--epoch=3"], "there is no option --epoch; did you mean --local-epochs?"),
        (["sgd", "--epoch", "3"], "did you mean --epochs?"),
        (["gossip", RING, "--quite-another", "3"], "gossip: there is no option --quite-another (see"),
        (["peer", RING, "--restart", "3"], "there is no option --restart"),
        (["gossip", RING, "--no-batch-norm"], "gossip: --no-batch-norm has been replaced by --norm none (see p2pfl"),
        (["gossip", "nowhere"], "nowhere: no such file"),
        (["gossip", "."], ".: not a regular file"),
        (["gossip", RING, "--config", "."], ".: is a folder; name a TOML file"),
        (["gossip", RING, "--dataset", "digits", "--init", ".", "--dry-run"], "a folder, and a file is needed there"),
        (["gossip", RING, "--rounds", "three"], "--rounds three: must be a whole number"),
        (["gossip", RING, "--lr", "high"], "--lr high: must be a number"),
        (["gossip", RING, "--local-epochs", "2", "--local-steps", "3"], "--local-steps 3 is set too; choose one"),
        (["gossip", RING, "--rounds", "0"], "--rounds 0: must be greater than 0"),
        (["gossip", RING, "--lr", "nan"], "--lr nan: must be a finite number, at most 1e+30"),
        (["gossip", RING, "--lr=-inf"], "--lr -inf: must be a finite number"),
        (["gossip", RING, "--width", "inf"], "--width inf: must be a finite number, at most 64"),
        (["gossip", RING, "--partition", "x"], "--partition x: choose one of iid"),
        (["gossip", RING, "--order", "sideways"], "--order sideways: choose one of 'atc', 'overlapped'"),
        (["gossip", RING, "--device", "tpu"], "--device tpu"),
        (["gossip", RING, "--config", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["gossip", "--resume", "nowhere"], "nowhere: not a run directory"),
        (["gossip", RING, "--mixing", "weights", "--dry-run", "--dataset", "digits"], "weight"),
        (["gossip", RING, "--dataset", "imagefolder:/nowhere", "--dry-run"], "/nowhere"),
        (["gossip", RING, "--dataset", "mnist", "--dry-run"], "mnist"),
        (["gossip", RING, "--dataset", "digits", "--model", "vgg12", "--dry-run"], "vgg12"),
        (["gossip", RING, "--dataset", "digits", "--model", "nowhere:f", "--dry-run"], "nowhere"),
        (["gossip", RING, "--dataset", "digits", "--batch-size", "1000", "--dry-run"], "--batch-size 1000"),
        pytest.param(
            ["gossip", RING, "--device", "cuda", "--dry-run", "--dataset", "digits"],
            "--device cuda: there is no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        *[
            (
                ["gossip", RING, "--device", device, "--dry-run", "--dataset", "digits"],
                f"--device {device}: PyTorch sees",
            )
            for device in ("cuda:99999", "cuda:999999999", "cuda:128")
        ],
        (["gossip", RING, "--profile", "0"], "--profile 0: must be NODE:ROUND"),
        (["gossip", RING, "--profile", "nobody:1", "--dry-run"], "--profile nobody:1: there is no node nobody; choose"),
        (["gossip", RING, "--profile", "0:9", "--rounds", "8", "--dry-run"], "--profile 0:9: the run has 8 rounds"),
        (["peer", RING], "--node"),
        (["peer", RING, "--node", "9"], "9"),
        (["peer", RING, "--node", "0"], "host and a port"),
        (["peer", RING, "--node", "0", "--dry-run"], "host and a port"),
        (["centralized", "--num-selected", "30", "--dry-run"], "--num-selected 30: there are only 20 clients"),
        (["centralized", "--num-rounds", "3", "--rounds", "3"], "--num-rounds 3: another name of --rounds"),
        (["centralized", "--epochs", "0"], "--epochs 0: must be greater than 0"),
        (["centralized", RING], "centralized:"),
        (["centralized", "--min-updates", "7", "--dry-run"], "--min-updates 7: only 6 clients"),
        (["sgd", "--mixing", "uniform"], "--mixing"),
        (["sgd", "--epochs", "x"], "--epochs x: must be a whole number"),
        (["sgd", "--dataset", "digits", "--batch-size", "5000", "--dry-run"], "--batch-size 5000"),
        (["local"], "local: name a topology file"),
        (["topology", "make", "ring", "-n", "2", "-o", "x.gml"], "ring"),
        (["topology", "make", "ring", "-n", "4", "-o", "x.doc"], "x.doc"),
        (["topology", "make", "rong", "-n", "4", "-o", "x.gml"], "rong"),
        (["topology", "show", "nowhere.gml"], "nowhere.gml"),
        (["topology", "fix", RING], "-o"),
        (["topology", "fix", RING, "-o", RING], "is the file that is to be fixed"),
        (["topology", "fix", RING, "-o", "x.doc"], "x.doc: unknown extension"),
        (["topology", "fix", RING, "-o", "none/x.gml"], "make the folder none"),
        (["topology", "fix", RING, "-o", "x.gml", "--labels", "both"], "--labels both: choose one of"),
        (["report"], "report: name a run directory"),
        (["report", "nowhere"], "nowhere: not a run directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in failing(capsys, *words)
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


@pytest.mark.processes
def test_bad_input_found_by_a_worker_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--batch-size 1000" in failing(capsys, "gossip", RING, "--dataset", "digits", "--batch-size", "1000")
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "0.0.0.0", "::ffff:10.0.0.1", "my-host.example"])
def test_a_host_beyond_this_machine_needs_two_answers_and_no_flag_gives_both(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    """Admission by keys or a token, and unencrypted messages by --insecure."""
    topology = make_topology("ring", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host="127.0.0.1" if peer else host, port=7000 + peer)
    save_topology(topology, tmp_path / "lan.gml")
    words = [str(tmp_path / "lan.gml"), "--dataset", "digits", "--model", "vgg11", "--width", "0.125", "--dry-run"]
    token = ["--token-file", token_file(tmp_path)]
    said = failing(capsys, "gossip", *words)  # a launcher has made a token
    assert f"host {host} is beyond this machine" in said
    assert "not encrypted; make keys (p2pfl keys) and add --keys DIR, or add --insecure" in said
    assert "authenticated" not in said
    assert main(["gossip", *words, "--insecure"]) == 0
    peer = ["peer", *words, "--node", "1"]
    assert "--token-file FILE" in failing(capsys, *peer)
    alone = failing(capsys, *peer, "--insecure")
    assert "--token-file FILE" in alone
    assert "--keys DIR" in alone
    assert "--insecure" not in alone
    assert "not encrypted" in failing(capsys, *peer, *token)
    assert main([*peer, *token, "--insecure"]) == 0


@pytest.mark.parametrize("words", [[], ["--help"], ["topology", "--help"], ["topology", "-h"]])
def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    captured = capsys.readouterr()
    named = re.findall(r"^  (\w+(?: \w+)?)  ", captured.out, flags=re.MULTILINE)
    assert named == list(COMMANDS)
    assert captured.err == ""


@pytest.mark.processes
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["gossip", "--help"],
        ["centralized", "--help"],
        ["compare", "--help"],
        ["compare", "/nowhere.gml", "--help"],
        ["topology", "show", RING, "-o", "x.png"],
    ],
)
def test_commands_that_do_not_train_never_import_torch(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import sys\nfrom p2pfl.cli import main\n"
        f"try: code = main({words!r})\nexcept SystemExit as end: code = end.code\n"
        "assert not code\nassert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=200, capture_output=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()


def test_help_says_every_option_of_the_design(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gossip", "--help"])
    text = capsys.readouterr().out
    wanted = (
        "rounds local-epochs local-steps batch-size lr momentum weight-decay schedule model width dataset data-dir "
        "partition algorithm mixing order device precision wire-dtype transport seed eval-every run-dir dry-run "
        "resume config"
    )
    assert [option for option in wanted.split() if not re.search(rf"--{option}\b", text)] == []


def test_dry_run_says_what_a_run_needs_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gossip", RING, "--dataset", "digits", "--model", "vgg11", "--rounds", "5", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "4 peers",
        "9,756,426 parameters",
        "5 rounds of 11 steps of 32",
        "memory:",
        "312.4 MB per round",
    ):
        assert expected in text
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_one_peer_says_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    topology = make_topology("ring", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=7000 + peer)
    save_topology(topology, tmp_path / "lan.gml")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    words = [str(tmp_path / "lan.gml"), "--dataset", "digits", "--width", "0.125", "--dry-run"]
    assert main(["gossip", *words]) == 0
    swarm = capsys.readouterr().out
    assert main(["peer", *words, "--node", "1", "--token-file", token_file(tmp_path)]) == 0
    alone = capsys.readouterr().out
    rows = re.compile(
        r"^(?:disk|memory): .*\n", re.MULTILINE
    )  # what this process writes; with a token nothing is shared
    assert rows.sub("", alone) == rows.sub("", swarm)
    assert len(rows.findall(alone)) == len(rows.findall(swarm)) == 2
    assert "3 peers" in swarm
    assert list(Path().iterdir()) == []
    assert "--node" in failing(capsys, "peer", *words)
    assert "no option --restart" in failing(capsys, "peer", *words, "--node", "1", "--restart", "1")
    assert "needs a launcher" in failing(capsys, "peer", *words, "--node", "1", "--faults", "none.toml")
    assert "'9'" in failing(capsys, "peer", *words, "--node", "9")


@pytest.mark.processes
def test_make_and_show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["topology", "make", "torus", "-n", "16", "-o", "t.graphml"]) == 0
    assert main(["topology", "show", "t.graphml"]) == 0
    text = capsys.readouterr().out
    assert "0.4000" in text
    assert "picture" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["t.graphml"]
    assert main(["topology", "show", "t.graphml", "-o", "t.png"]) == 0
    assert "picture:       t.png" in capsys.readouterr().out
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert load_topology("t.graphml").n == 16


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("one-peer-exponential", "degree"),
        ("ring", "degree"),
        ("random-regular", "probability"),
        ("torus", "seed"),
        ("base-k", "seed"),
    ],
)
def test_make_refuses_options_of_other_kinds(capsys: pytest.CaptureFixture[str], kind: str, option: str) -> None:
    line = failing(capsys, "topology", "make", kind, "-n", "8", "-o", "never.json", f"--{option}", "1")
    assert f"--{option}: means nothing with {kind}, only with" in line


def test_make_and_show_name_the_file_and_count_one_edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["topology", "make", "base-k", "-n", "2", "-o", "pair.json"]) == 0
    assert capsys.readouterr().out == "pair.json: a schedule of 1 graph, 2 peers, 1 edge\n"
    edges = '"edges": [{"source": 0, "target": 1, "weight": 1}]'
    for name, graph in (("one.json", edges), ("list.json", f'"schedule": [{{{edges}}}]')):
        Path(name).write_text(f'{{"nodes": [{{"id": 0}}, {{"id": 1}}], {graph}}}')
        assert f"{name}: " in failing(capsys, "topology", "show", name, "--mixing", "weights")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--batch-size 1000: a peer's shard has 359 samples in the mean (with the settings in FILE); choose 1 to "),
        (["--batch-size", "500"], "--batch-size 500: a peer's shard has 359 samples in the mean; choose 1 to 359"),
        (["--batch_size=500"], "--batch-size 500: a peer's shard has 359 samples in the mean; choose 1 to 359"),
        (["--batch-size", "8", "--partition", "none"], "--partition none: choose one of iid"),
        (["--batch-size", "8", "--min-peers", "9"], "--min-peers 9: the topology has only 4 peers"),
        (["nowhere--lr.gml"], "nowhere--lr.gml: no such file"),
    ],
    ids=["in the file", "on the command line", "with an equals sign", "a choice", "without remedy", "no option"],
)
def test_the_file_of_settings_is_named_only_where_an_option_of_it_is_to_blame(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], line: str
) -> None:
    file = tmp_path / "demo.toml"
    file.write_text('[training]\nbatch_size = 1000\n[data]\ndataset = "digits"\n')
    said = failing(
        capsys,
        "gossip",
        *([] if words[-1:] == ["nowhere--lr.gml"] else [RING]),
        *words,
        "--config",
        str(file),
        "--dry-run",
    )
    assert said.removeprefix("p2pfl: ").startswith(line.replace("FILE", str(file)))
    assert ("settings in" in said) == ("FILE" in line)


def test_the_file_of_settings_is_not_named_for_a_temporary_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "demo.toml"
    file.write_text('[data]\ndataset = "digits"\n')
    trouble = ConfigError("TMPDIR /long: too long a path for sockets; set TMPDIR to a shorter one, or see --help")

    def run(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr("p2pfl.cli.train.run", run)
    assert failing(capsys, "gossip", RING, "--config", str(file)) == f"p2pfl: {trouble}"


def swarm_options(folder: Path) -> list[str]:
    options = "--dataset digits --model user_models:linear --rounds 3 --local-steps 2 --lr 0.01 --threads 1"
    return [*shlex.split(options), "--run-dir", str(folder)]


def start(*words: str) -> subprocess.Popen[str]:
    return commands.start(*words)


@pytest.mark.processes
def test_peers_started_one_by_one_make_a_swarm(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    for peer, port in enumerate(free_ports(3)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    save_topology(topology, tmp_path / "lan.gml")
    shared = [str(tmp_path / "lan.gml"), *swarm_options(tmp_path / "run"), "--token-file", token_file(tmp_path)]
    peers = [start("peer", *shared, "--node", "0")]
    assert peers[0].stdout is not None
    for line in peers[0].stdout:  # so that --run-dir is made by one of them
        if "waiting for its neighbors" in line:
            break
    peers += [start("peer", *shared, "--node", node) for node in "12"]
    secret = (tmp_path / "token").read_text().strip()
    for peer in peers:
        out, err = peer.communicate(timeout=200)
        assert peer.returncode == 0, err
        assert secret not in out + err
    assert main(["report", str(tmp_path / "run")]) == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in written)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["consensus_accuracy"] > 0.1
    assert (tmp_path / "run" / "consensus.safetensors").exists()


@pytest.mark.processes
def test_resume_accepts_the_same_settings_and_refuses_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(MODELS)
    run_dir = tmp_path / "run"
    assert main(["gossip", RING, *swarm_options(run_dir)]) == 0
    before = (run_dir / "consensus.safetensors").read_bytes()
    capsys.readouterr()
    resume = ["gossip", "--resume", str(run_dir)]
    assert "--lr 0.5" in failing(capsys, *resume, "--lr", "0.5")
    assert "not the topology" in failing(capsys, *resume, str(ROOT / "topologies" / "mesh-4.graphml"))
    assert main(["gossip", RING, "--resume", str(run_dir), "--lr", "0.01", "--eval-every", "1"]) == 0
    assert (run_dir / "consensus.safetensors").read_bytes() == before
    assert "exists already" in failing(capsys, "gossip", RING, *swarm_options(run_dir))


@pytest.mark.processes
def test_the_saved_settings_repeat_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(MODELS)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["gossip", RING, *swarm_options(first)]) == 0
    saved = (first / "config.toml").read_text(encoding="utf-8")
    assert 'topology = "topology.graphml"' in saved
    assert 'name = "ring-4"' in saved
    assert main(["gossip", "--config", str(first / "config.toml"), "--run-dir", str(second)]) == 0
    assert (second / "config.toml").read_text(encoding="utf-8") == saved
    assert json.loads((second / "summary.json").read_text(encoding="utf-8"))["topology"] == "ring-4"
    assert (first / "consensus.safetensors").read_bytes() == (second / "consensus.safetensors").read_bytes()


def test_steps_on_the_command_line_replace_epochs_of_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text('dataset = "digits"\nmodel = "vgg11"\nwidth = 0.125\nlocal_epochs = 1\n')
    assert main(["gossip", RING, "--config", str(tmp_path / "run.toml"), "--local-steps=7", "--dry-run"]) == 0
    assert "rounds of 7 steps" in capsys.readouterr().out
    assert "choose one" in failing(capsys, "gossip", RING, "--local-steps", "7", "--local-epochs", "2")


LONG = "x" * 300
PATHS: list[tuple[list[str], str]] = [
    (["sgd", "--run-dir", LONG], "--run-dir "),
    (["sgd", "--run-dir", "/".join(["x" * 200] * 19)], "--run-dir "),  # it is not too long itself, but what is in it
    (["sgd", "--dry-run", "--dataset", "digits", "--data-dir", LONG], "--data-dir "),
    (["sgd", "--dry-run", "--dataset", f"imagefolder:{LONG}"], "--dataset "),
    (["sgd", "--init", LONG], "--init "),
    (["sgd", "--config", LONG], ""),
    (["sgd", "--resume", LONG], ""),
    (["gossip", f"{LONG}.gml"], ""),
    (["gossip", RING, "--keys", LONG], "--keys "),
    (["gossip", RING, "--faults", LONG], "--faults "),
    (["peer", RING, "--node", "0", "--token-file", LONG], "--token-file "),
    (["keys", RING, "-o", LONG], "-"),
    (["topology", "make", "ring", "-n", "3", "-o", f"{LONG}.gml"], "-"),
    (["topology", "fix", RING, "-o", f"{LONG}.gml"], "-"),
    (["topology", "show", RING, "-o", f"{LONG}.png"], "-"),
    (["topology", "show", f"{LONG}.gml"], ""),
    (["report", LONG], ""),
    (["compare", RING, "--run-dir", LONG], "--run-dir "),
    (["compare", LONG], ""),
]


@pytest.mark.parametrize(("words", "option"), PATHS)
def test_a_path_with_too_long_a_name_is_refused_with_the_remedy(
    words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = failing(capsys, *words)
    assert line.startswith(f"p2pfl: {option}")
    assert line.endswith(" (File name too long); choose a shorter name")
    assert list(tmp_path.iterdir()) == []


UNUSABLE = {"null byte": "a\0b", "circle": "circle", "file above": "file/x", "link to nowhere": "link", "file": "file"}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_path_that_cannot_be_used_is_refused_by_every_option(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    path, sgd = UNUSABLE[what], ["sgd", "--dataset", "digits"]
    for words in (
        [*sgd, "--run-dir", path],
        [*sgd, "--dry-run", "--data-dir", path],
        ["sgd", "--dry-run", "--dataset", f"imagefolder:{path}"],
        [*sgd, "--init", path],
        [*sgd, "--resume", path],
        ["gossip", RING, "--keys", path],
        ["report", path],
        *([] if what == "file" else [[*sgd, "--config", path], ["gossip", RING, "--faults", path]]),  # an empty one
    ):
        assert failing(capsys, *words).startswith("p2pfl: ")


def test_names_that_are_long_still_make_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    topology = make_topology("ring", 3)
    run_dir = create_run_dir(dataclasses.replace(topology, name="é" * 200), RunConfig(), "0" * 300)
    assert (run_dir / "config.toml").is_file()
