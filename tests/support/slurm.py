"""Slurm with one node, this machine, and its files in a temporary folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "srun")
SECONDS = 30.0  # for the daemons to start, and to end
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# More processors than there may be.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Environment in which Slurm's commands reach a cluster of one node.

    Skips the test where Slurm is not installed or cannot be started.
    """
    # Debian keeps the daemons where the path of an ordinary user has nothing.
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    if missing := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        pytest.skip(f"Slurm is not installed here: no {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("slurmd has to be started by root")
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))  # a socket's path must be short
        folder.chmod(0o755)  # munged wants its socket to be reachable for all
        environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
        _configure(folder)
        for name, words in _daemons(folder).items():
            held.enter_context(_running(folder, name, words, environment))
        held.callback(subprocess.run, ["scancel", "--user=root"], env=environment, capture_output=True, timeout=SECONDS)
        _wait_until_idle(environment)
        yield environment


def _configure(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        controller, node = (one.getsockname()[1] for one in sockets)
    text = _CONFIGURATION.format(folder=folder, host=host, controller=controller, node=node)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)


def _daemons(folder: Path) -> dict[str, list[str]]:
    places = {"socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
    munge = [f"--{option}={folder}/{name}" for option, name in {"key-file": "munge.key", **places}.items()]
    return {
        "munged": ["munged", "--foreground", *munge],
        "slurmctld": ["slurmctld", "-D", "-c"],
        "slurmd": ["slurmd", "-D"],
    }


@contextmanager
def _running(folder: Path, name: str, words: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    """Daemon in the foreground, ended with the context."""
    with open(folder / f"{name}.txt", "w") as output:
        program = shutil.which(words[0], path=environment["PATH"]) or words[0]
        with subprocess.Popen([program, *words[1:]], env=environment, stdout=output, stderr=output) as daemon:
            try:
                yield
            finally:
                daemon.terminate()
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(timeout=SECONDS)
                daemon.kill()


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + SECONDS
    command = ["sinfo", "--noheader", "--format=%T"]
    said = ""
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
            said = done.stdout.strip() or done.stderr.strip()
        if said == "idle":
            return
        time.sleep(0.1)
    folder = Path(environment["SLURM_CONF"]).parent
    logs = "; ".join(
        f"{path.name}: {(path.read_text().splitlines() or [''])[-1]}" for path in sorted(folder.glob("*.txt"))
    )
    pytest.skip(f"Slurm may not be started here: sinfo says {said!r}; {logs}")
