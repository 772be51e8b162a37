"""Files in deploy/: form, references to each other, command lines."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.support.deployed import DEPLOY, Shell, documents, peer, service
from tests.support.paths import ROOT

from p2pfl.errors import ConfigError
from p2pfl.run.directory import create_run_dir
from p2pfl.topology import load_topology
from p2pfl.transport.keyring import is_key, own_token

MANIFESTS = ("swarm.yaml", "rendezvous.yaml", "secret.yaml")
RESOURCES = [(name, found) for name in MANIFESTS for found in documents(f"kubernetes/{name}")]
VERSIONS = ("1.29", "1.34")  # of Kubernetes
RING = load_topology(ROOT / "topologies" / "ring-8.graphml")


def resource(kind: str, name: str) -> dict[str, Any]:
    [found] = [one for _, one in RESOURCES if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


SWARM = resource("StatefulSet", "p2pfl")["spec"]
DIRECTORY = resource("Deployment", "p2pfl-rendezvous")["spec"]
PODS = [SWARM["template"]["spec"], DIRECTORY["template"]["spec"]]


def test_compose_starts_each_peer_of_the_ring_once() -> None:
    [found] = documents("docker/compose.yml")
    nodes = []
    for one in found["services"].values():
        node, resolved = peer(one["command"], one["environment"])
        nodes.append(node)
        assert resolved.topology.n == RING.n
        exchange = resolved.config.exchange
        shared = (exchange.rendezvous, exchange.keys, resolved.config.record.run_dir)
        mounts = [mount.partition(":")[2] for mount in one["volumes"]]
        assert mounts == ["/swarm"]
        assert all(str(path).startswith("/swarm/") for path in shared)
        assert one["build"]["args"] == {"TORCH_INDEX": ""}
        context = DEPLOY / "docker" / one["build"]["context"]
        assert (context / one["build"]["dockerfile"]).is_file()
    assert sorted(nodes) == list(range(RING.n))


@pytest.mark.processes
def test_docker_reads_the_compose_file() -> None:
    program = ("docker", "compose")
    if shutil.which("docker") is None or subprocess.run([*program, "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    subprocess.run([*program, "--file", str(DEPLOY / "docker" / "compose.yml"), "config", "--quiet"], check=True)


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in lines if line.strip()]


def test_the_image_has_what_it_copies_and_ends_as_no_root() -> None:
    found = instructions()
    copied = [source for name, words in found if name == "COPY" for source in words.split()[:-1]]
    assert [source for source in copied if not (ROOT / source).exists()] == []
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)
    assert [words for name, words in found if name == "ARG"] == ["PYTHON=3.11", "TORCH_INDEX="]
    [user] = [words for name, words in found if name == "USER"]
    assert user == "1000:1000"
    assert all(pod["securityContext"]["runAsUser"] == 1000 for pod in PODS)
    assert found[-2:] == [("ENTRYPOINT", '["p2pfl"]'), ("CMD", '["--help"]')]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "found", [found for _, found in RESOURCES], ids=[f"{name}-{found['kind']}" for name, found in RESOURCES]
)
def test_kubernetes_knows_each_field(found: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(found, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**found, "specs": {}}, version, strict=True)


def test_names_in_the_manifests_lead_to_each_other() -> None:
    headless = resource("Service", SWARM["serviceName"])["spec"]
    reached = resource("Service", "p2pfl-rendezvous")["spec"]
    assert headless["clusterIP"] == "None"
    secret = resource("Secret", "p2pfl")
    for found, serving in ((SWARM, headless), (DIRECTORY, reached)):
        labels = found["template"]["metadata"]["labels"]
        assert found["selector"]["matchLabels"] == serving["selector"] == labels
        pod = found["template"]["spec"]
        [container] = pod["containers"]
        assert [port["containerPort"] for port in container["ports"]] == [port["port"] for port in serving["ports"]]
        given = {volume["name"] for volume in pod["volumes"]} | {
            claim["metadata"]["name"] for claim in found.get("volumeClaimTemplates", ())
        }
        assert {mount["name"] for mount in container["volumeMounts"]} == given
        assert set(keys_used(pod)) <= set(secret["stringData"])
    assert {key for pod in PODS for key in keys_used(pod)} == set(secret["stringData"])
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in PODS[1]["volumes"]
        if "emptyDir" not in volume and "secret" not in volume
    ]
    assert [resource("PersistentVolumeClaim", name)["kind"] for name in claims] == ["PersistentVolumeClaim"]
    assert SWARM["replicas"] == RING.n


def keys_used(pod: dict[str, Any]) -> Iterator[str]:
    """Keys of the secret that a pod refers to."""
    for volume in pod["volumes"]:
        for item in volume.get("secret", {}).get("items", ()):
            assert volume["secret"]["secretName"] == "p2pfl"
            yield item["key"]
    for variable in pod["containers"][0].get("env", ()):
        if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["name"] == "p2pfl"
            yield reference["key"]


def test_secrets_that_nobody_has_filled_in_are_refused(tmp_path: Path) -> None:
    values = resource("Secret", "p2pfl")["stringData"]
    (tmp_path / "token").write_text(values["token"])
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(ConfigError, match="a token has at least"):
        own_token(str(tmp_path / "token"))
    assert not is_key(values["service.key"])


class Pod:
    """Script of a container, run in a folder that stands for its volumes."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.shell, self._folder = Shell(folder), folder
        for name in ("secret", "private", "swarm"):
            (folder / name).mkdir()
        for name in ("token", "service.key"):
            (folder / "secret" / name).write_text(name)
            (folder / "secret" / name).chmod(0o440)
        [container] = spec["containers"]
        [script] = container["args"]
        self.command = [*container["command"], re.sub(r"/(secret|private|swarm)/", rf"{folder}/\1/", script)]
        self.environment = {"RUN": "1", "HOSTNAME": "p2pfl-3", "RENDEZVOUS_KEY": "0" * 64}
        self.run_dir = folder / "swarm" / "run-1"

    def run(self) -> int:
        return self.shell.run(*self.command, environment=self.environment)

    def start(self) -> subprocess.Popen[str]:
        return self.shell.start(*self.command, environment=self.environment)

    def mode(self, name: str) -> int:
        return os.stat(self._folder / "private" / name).st_mode & 0o777


@pytest.mark.processes
def test_the_pod_of_the_service_starts_it_with_copies_of_its_secrets(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PODS[1])
    pod.shell.replace("p2pfl", "exit 0")
    assert pod.run() == 0
    options = service(pod.shell.words("p2pfl"))
    assert options.bind.endswith(f":{PODS[1]['containers'][0]['ports'][0]['containerPort']}")
    assert load_topology(ROOT / options.file).n == RING.n
    assert options.key is not None
    mounts = {mount["name"]: mount["mountPath"] for mount in PODS[1]["containers"][0]["volumeMounts"]}
    assert str(options.records) == mounts["records"]
    assert pod.mode(options.token_file.name) == pod.mode(options.key.name) == 0o600


@pytest.mark.processes
def test_the_pod_of_a_peer_starts_it_and_resumes_it_when_it_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pod = Pod(tmp_path, PODS[0])
    pod.shell.replace("p2pfl", "exit 3")
    assert pod.run() == 3
    node, resolved = peer(pod.shell.words("p2pfl"), pod.environment)
    exchange = resolved.config.exchange
    assert (node, resolved.topology.n) == (3, RING.n)
    assert resolved.config.record.run_dir == str(pod.run_dir)
    assert exchange.rendezvous == "tcp://p2pfl-rendezvous:7300"
    assert resolved.arguments.announce == "p2pfl-3.p2pfl:7400"
    assert pod.mode(Path(str(exchange.token_file)).name) == 0o600

    create_run_dir(resolved.topology, resolved.config, "3")
    assert pod.run() == 3
    node, resolved = peer(pod.shell.words("p2pfl"), pod.environment)
    assert (node, resolved.arguments.resume) == (3, pod.run_dir)
    assert resolved.arguments.announce == "p2pfl-3.p2pfl:7400"
    assert resolved.config.exchange.rendezvous == exchange.rendezvous


@pytest.mark.processes
def test_the_pod_of_a_peer_that_is_done_waits_to_be_deleted(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PODS[0])
    pod.run_dir.mkdir()
    pod.shell.replace("p2pfl", "exit 0")
    pod.shell.replace("sleep", "echo sleeps; exec /bin/sleep 60")
    for started in (True, False):  # the second time after a restart of its node
        with pod.start() as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "sleeps\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=200) == 128 + signal.SIGTERM
        assert bool(pod.shell.words("p2pfl")) == started


@pytest.mark.processes
def test_the_pod_of_a_peer_hands_on_the_signal_to_stop(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PODS[0])
    pod.shell.replace("p2pfl", "trap 'kill $!; echo saved; exit 130' TERM; echo trains; /bin/sleep 60 & wait $!")
    with pod.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "saved\n"
        assert process.wait(timeout=200) == 130


@pytest.mark.processes
def test_the_batch_file_starts_each_task_and_resumes_a_requeued_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell, batch = Shell(tmp_path), str(DEPLOY / "slurm" / "swarm.sbatch")
    shell.replace("srun", "exit 0")
    job = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "2"}
    given = ["--keys", "mine", "--dataset", "digits"]
    ring = str(ROOT / "topologies" / "ring-8.graphml")
    assert shell.run("bash", batch, ring, *given, environment=job, cwd=tmp_path) == 0
    words = shell.words("srun")
    program = words.index("run_peers.py")
    assert words[:program] == ["--cpus-per-task=2", "--kill-on-bad-exit=0", "--wait=0", "--label", "python"]
    node, resolved = peer(words[program + 1 :], {"SLURM_PROCID": "5"})
    config = resolved.config
    assert (node, resolved.topology.n, config.compute.threads) == (5, 8, 2)
    assert (config.exchange.keys, config.exchange.rendezvous_run) == ("mine", "17.0")

    create_run_dir(resolved.topology, config, "5")
    again = {**job, "SLURM_RESTART_COUNT": "1"}
    assert shell.run("bash", batch, ring, *given, environment=again, cwd=tmp_path) == 0
    node, resolved = peer(shell.words("srun")[program + 1 :], {"SLURM_PROCID": "5"})
    assert (node, str(resolved.arguments.resume)) == (5, config.record.run_dir)
    assert resolved.config.exchange.rendezvous_run == "17.1"
    assert resolved.config.exchange.rendezvous == config.exchange.rendezvous
