"""Repeated signals, closed or full outputs, and too deep folders in real runs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.support import commands
from tests.support.helpers import token_file
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start  # a fixture
from tests.support.paths import MODELS, ROOT

from p2pfl import make_topology
from p2pfl.topology import save_topology

PROGRAM = [sys.executable, str(ROOT / "run_peers.py")]
RING = str(ROOT / "topologies" / "ring-4.graphml")
WAIT = "import threading\nprint('here I wait', flush=True)\nthreading.Event().wait()\n"
PRINTING = [["--help"], ["--version"], ["gossip", "--help"], ["topology", "show", RING, "-o", "x.png"]]
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")


def shell(redirections: str, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program as a shell starts it with redirections."""
    command = f"exec {shlex.join([*PROGRAM, *words])} {redirections}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "PYTHONPATH": str(MODELS), **environment},
    )


def run_options(folder: Path) -> list[str]:
    return [*FAST, "--local-steps", "2", "--rounds", "5", "--run-dir", str(folder / "run")]


def fork_server(swarm: Swarm) -> psutil.Process:
    # As the warm server names it, and with it all that is forked from it: so only the launcher's own children.
    (found,) = [child for child in psutil.Process(swarm.process.pid).children() if child.name() == "forkserver"]
    return found


@pytest.mark.processes
@needs_proc
def test_the_fork_server_blocks_interruptions_for_its_workers(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(ring(tmp_path), *FAST, "--rounds", "1000", "--run-dir", str(tmp_path / "run"))
    swarm.until("starting 3 processes")
    status = Path(f"/proc/{fork_server(swarm).pid}/status").read_text()
    (blocked,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk")]
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM)), status


@pytest.mark.processes
@pytest.mark.parametrize(("module", "dataset"), [("torch", "digits"), ("slow_data", "slow_data:load")])
def test_ctrl_c_waits_neither_for_imports_nor_for_data(
    tmp_path: Path, start: Callable[..., Swarm], module: str, dataset: str
) -> None:
    (tmp_path / f"{module}.py").write_text(WAIT)
    options = ["--model", "user_models:linear", "--dataset", dataset, "--run-dir", str(tmp_path / "run")]
    swarm = start(ring(tmp_path), *options, PYTHONPATH=str(tmp_path))
    swarm.until("here I wait")
    family = swarm.family()
    os.killpg(swarm.process.pid, signal.SIGINT)
    code, err = swarm.end()
    assert code == 130
    assert err.count("\n") == 1, err
    nobody_left(swarm, family)


@pytest.mark.processes
def test_the_data_process_is_quiet_when_nobody_listens(tmp_path: Path) -> None:
    code = (
        "from multiprocessing import Pipe\n"
        "from pathlib import Path\n"
        "from p2pfl import make_topology\n"
        "from p2pfl.config import DataConfig, RunConfig\n"
        "from p2pfl.launch.prepare import data_process\n"
        "from p2pfl.modes import assign_roles\n"
        "ours, theirs = Pipe()\n"
        "ours.close()\n"
        f"config = RunConfig(data=DataConfig(dataset='digits', data_dir={str(tmp_path)!r}))\n"
        f"data_process(config, assign_roles(config, make_topology('ring', 3)), True, Path({str(tmp_path)!r}), theirs)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.processes
@pytest.mark.parametrize(
    "program",
    [
        PROGRAM,
        [sys.executable, "-m", "p2pfl"],
        [sys.executable, "-c", "import sys\nfrom p2pfl.cli import main\nsys.exit(main())"],
    ],
    ids=["run_peers.py", "-m p2pfl", "p2pfl"],
)
@pytest.mark.parametrize(("module", "number"), [("rich", "SIGINT"), ("tyro", "SIGTERM")])
def test_a_signal_while_the_command_is_imported(tmp_path: Path, program: list[str], module: str, number: str) -> None:
    # As a library that takes a Ctrl-C amid its import for an import that failed.
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\n"
        f"try:\n    for _ in range(10): os.kill(os.getpid(), signal.{number})\n"
        "except KeyboardInterrupt: raise ImportError('lost') from None\n"
    )
    words = [*program, "topology", "show", RING]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "p2pfl: interrupted before anything was written\n")


@pytest.mark.processes
@pytest.mark.parametrize("number", ["SIGHUP", "SIGQUIT"])
def test_a_signal_that_a_library_swallows_is_an_interrupt_all_the_same(tmp_path: Path, number: str) -> None:
    (tmp_path / "matplotlib.py").write_text(
        f"import os, signal\ntry: os.kill(os.getpid(), signal.{number})\n"
        "except KeyboardInterrupt: raise ImportError('lost') from None\n"
    )
    done = commands.run(
        "topology", "show", RING, "-o", str(tmp_path / "x.png"), environment={"PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode, done.stderr) == (130, "p2pfl: interrupted\n")


@pytest.mark.processes
def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n")
    command = f"trap '' INT; exec {shlex.join([*PROGRAM, 'topology', 'show', RING])}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False, env=environment).returncode == 7


@pytest.mark.processes
@needs_full
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_full_output_is_one_line_and_status_1(tmp_path: Path, words: list[str]) -> None:
    done = shell(">/dev/full", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left" in done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_closed_outputs_are_no_trouble(tmp_path: Path, words: list[str]) -> None:
    for redirections in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = shell(redirections, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), redirections
    assert (tmp_path / "x.png").exists() == (words[0] == "topology")


@pytest.mark.processes
def test_a_run_with_closed_outputs(tmp_path: Path) -> None:
    done = shell("<&- >&- 2>&-", "gossip", ring(tmp_path), *run_options(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "consensus.safetensors").exists()


@pytest.mark.processes
def test_a_reader_that_leaves_does_not_end_a_run(tmp_path: Path, start: Callable[..., Swarm]) -> None:
    swarm = start(ring(tmp_path), *run_options(tmp_path))
    assert swarm.process.stdout is not None
    assert swarm.process.stderr is not None
    swarm.process.stdout.readline()
    swarm.process.stdout.close()
    assert swarm.process.wait(100) == 0
    assert swarm.process.stderr.read() == ""
    assert (tmp_path / "run" / "consensus.safetensors").exists()


@pytest.mark.processes
def test_a_reader_that_leaves_does_not_end_a_peer(tmp_path: Path) -> None:
    from tests.support.helpers import free_ports

    topology = make_topology("path", 2)
    for peer, port in enumerate(free_ports(2)):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=port)
    save_topology(topology, tmp_path / "pair.gml")
    peers = []
    for node in "01":
        words = ["peer", str(tmp_path / "pair.gml"), "--node", node, *run_options(tmp_path / node)]
        words += ["--token-file", token_file(tmp_path)] if node == "0" else ["--token-file", str(tmp_path / "token")]
        peers.append(commands.start(*words))
    try:
        assert peers[1].stdout is not None
        peers[1].stdout.readline()
        peers[1].stdout.close()
        _, err = peers[0].communicate(timeout=150)
        assert peers[0].returncode == 0, err
        assert peers[1].wait(60) == 0
        assert peers[1].stderr is not None
        assert peers[1].stderr.read() == ""
    finally:
        for process in peers:
            process.kill()
            process.wait()


@pytest.mark.processes
def test_a_temporary_folder_too_deep_for_sockets_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    done = shell("", "gossip", ring(tmp_path), *run_options(tmp_path), cwd=tmp_path, TMPDIR=str(deep))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"TMPDIR {deep}" in done.stderr
    assert list(deep.iterdir()) == []
    assert not (tmp_path / "run").exists()
