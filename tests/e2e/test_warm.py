"""Commands forked from the warm server match those of new interpreters.

Compared are status, output and bits.
"""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.support import commands, warm

from p2pfl import make_topology
from p2pfl.topology import save_topology

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(warm.ADDRESS not in os.environ, reason="no warm server in this session"),
]

TINY = shlex.split("--dataset digits --model user_models:linear --local-steps 2 --rounds 3 --lr 0.01 --threads 1")
PROBE = """
import os, resource, signal, stat, sys
mask = os.umask(0); os.umask(mask)
print(sys.argv[1:], os.getcwd(), oct(mask), resource.getrlimit(resource.RLIMIT_NOFILE))
print(os.environ.get("PROBE"), os.environ.get("P2PFL_TEST_PICTURES"), "HOME" in os.environ)
print(os.getsid(0) == os.getpid(), [os.isatty(n) for n in range(3)])
print([n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")])
print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), [stat.S_IFMT(os.fstat(n).st_mode) for n in range(3)])
print(sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors, sys.stdout.line_buffering, sys.path[0], __name__)
print(sys.stdin.read(), end="", file=sys.stderr)
"""


def both(*words: str, **options: Any) -> list[subprocess.CompletedProcess[str]]:
    return [commands.run(*words, cold=cold, **options) for cold in (False, True)]


@pytest.mark.parametrize("session", [False, True])
def test_a_forked_process_gets_what_a_new_one_gets(tmp_path: Path, session: bool) -> None:
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as nothing:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        try:
            options: dict[str, Any] = {"program": (sys.executable, str(script)), "cwd": tmp_path, "umask": 0o027}
            options |= {"environment": {"PROBE": "1"}, "start_new_session": session, "stdin": nothing}
            forked, new = both("a", "b c", **options)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert forked.stdout == new.stdout
    assert (forked.returncode, forked.stderr) == (new.returncode, new.stderr) == (0, "")
    assert "'a', 'b c'" in forked.stdout
    assert "(200, " in forked.stdout


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('said')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os.close(1); print('x')", None),
        ("raise ValueError('wrong')", 1),
        ("import atexit, threading; atexit.register(print, 'end'); threading.Timer(0.1, print, ['timer']).start()", 0),
    ],
)
def test_a_forked_process_ends_as_a_new_one(tmp_path: Path, code: str, status: int | None) -> None:
    script = tmp_path / "end.py"
    script.write_text(code + "\n")
    forked, new = both(program=(sys.executable, str(script)))
    assert forked.returncode == new.returncode
    assert status is None or new.returncode == status
    assert forked.stdout == new.stdout
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


STARTING = """
import subprocess, sys
code = "import os, sys; print('torch' in sys.modules, os.environ['PROBE'], sys.stdin.read()); sys.exit(3)"
done = subprocess.run([sys.executable, "-c", code], input="given", stdout=subprocess.PIPE, text=True)
print(done.returncode, done.stdout)
print(subprocess.run(["sh", "-c", "exit 4"]).returncode)
"""


def test_an_interpreter_that_a_forked_process_starts_is_forked_too(tmp_path: Path) -> None:
    script = tmp_path / "starting.py"
    script.write_text(STARTING)
    forked, new = both(program=(sys.executable, str(script)), environment={"PROBE": "probe"})
    assert (forked.stderr, new.stderr) == ("", "")
    assert forked.stdout == "3 True probe given\n\n4\n", "torch is there without an import"
    assert new.stdout == "3 False probe given\n\n4\n"


def test_a_forked_process_has_its_own_terminal(tmp_path: Path) -> None:
    script = tmp_path / "terminal.py"
    script.write_text(
        "import os, sys\nprint(os.isatty(1), os.get_terminal_size().columns, sys.stdout.line_buffering)\n"
    )
    seen = []
    for cold in (False, True):
        ours, theirs = pty.openpty()
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "cold": cold, "start_new_session": True}
        with commands.start(program=(sys.executable, str(script)), **ends) as process:
            os.close(theirs)
            assert process.wait(200) == 0
            assert select.select([ours], [], [], 10)[0]
            seen.append(os.read(ours, 1000))
        os.close(ours)
    assert seen[0] == seen[1]
    assert seen[0].startswith(b"True 0")


def test_the_same_commands_forked_and_in_new_interpreters(tmp_path: Path) -> None:
    """Commands that succeed, fail and are interrupted: status, output, bits, plots."""
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    ring, drawn = str(tmp_path / "ring.graphml"), {"P2PFL_TEST_PICTURES": "1"}
    for words in (["--version"], ["gossip", "--help"], ["gossip", ring, "--lr", "x"], ["gossip", ring, "--dry-run"]):
        forked, new = both(*words)
        assert (forked.returncode, forked.stdout, forked.stderr) == (new.returncode, new.stdout, new.stderr)
    assert commands.run("gossip", ring, *TINY, "--run-dir", str(tmp_path / "decode")).returncode == 0  # fills the cache
    models, outputs = [], []
    for cold in (False, True):
        run_dir = tmp_path / str(cold) / "run"
        done = commands.run("gossip", ring, *TINY, "--run-dir", str(run_dir), cold=cold, environment=drawn)
        assert (done.returncode, done.stderr) == (0, "")
        outputs.append(
            re.sub(
                r"[\d,.]+ samples/s|\d+:\d\d left|[\d.,]+ [kM]B", "", done.stdout.replace(str(run_dir), "RUN")
            ).split()
        )
        models.append(load_file(run_dir / "consensus.safetensors"))
        assert (run_dir / "plots" / "topology.png").stat().st_size > 1000
    assert outputs[0] == outputs[1]
    assert models[0].keys() == models[1].keys()
    assert all((models[0][name] == tensor).all() for name, tensor in models[1].items())


def test_what_is_read_at_the_start_is_never_forked() -> None:
    here = dict(os.environ)
    assert warm.can_serve(here)
    assert not warm.can_serve({**here, "OMP_NUM_THREADS": "7"})
    assert not warm.can_serve({**here, "MALLOC_ARENA_MAX": "7"})
    assert not warm.can_serve({**here, "PYTHONWARNINGS": "error"})


def test_a_module_that_hides_an_imported_one_is_never_forked(tmp_path: Path) -> None:
    assert warm.can_serve({**os.environ, "PYTHONPATH": str(tmp_path)})
    (tmp_path / "torch.py").write_text(textwrap.dedent("raise ImportError"))
    assert not warm.can_serve({**os.environ, "PYTHONPATH": str(tmp_path)})
