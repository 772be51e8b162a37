"""Settings of the launcher, and what does not fit together."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.support.heads import GRPC, head
from tests.support.paths import ROOT

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.cli.options import resolve_options
from p2pfl.cli.train import Gossip
from p2pfl.config import LaunchConfig, check_launch
from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launch.ray_cluster import connected, describe
from p2pfl.run.settings import resolve

RING = str(ROOT / "topologies" / "ring-4.graphml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "slurm"}, "--launcher slurm: choose one of local, ray"),
        ({"cpus_per_peer": 0.0}, "--cpus-per-peer 0.0: must be greater than 0"),
        ({"gpus_per_peer": 1.5}, "--gpus-per-peer 1.5: must be at most 1, or a whole number"),
        ({"ray_address": "10.0.0.3"}, "--ray-address 10.0.0.3: must be auto, or HOST:PORT of the cluster's head"),
        (
            {"ray_address": "ray://head:10001"},
            "--ray-address ray://head:10001: must be auto, or HOST:PORT of the cluster's head",
        ),
        ({"ray_address": "head:99999"}, "--ray-address head:99999: must be auto, or HOST:PORT of the cluster's head"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.of(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_peer": 0.25}, "--gpus-per-peer 0.25: means nothing with --launcher local, only with ray"),
        ({"placement": "pack"}, "--placement pack: means nothing with --launcher local, only with ray"),
        ({"launcher": "ray", "transport": "ipc"}, "--transport ipc: --launcher ray spans machines"),
        ({"launcher": "ray", "keys": "keys"}, "--keys keys: with --launcher ray each process makes a key pair itself"),
        ({"launcher": "ray", "device": "cuda:0"}, "--device cuda:0: with --launcher ray a process has the GPUs"),
    ],
)
def test_options_that_do_not_fit_the_launcher_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_launch(RunConfig.of(**options))
    assert str(caught.value).startswith(message)


def test_a_process_on_a_cluster_has_the_threads_of_its_cpus_and_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    config = RunConfig.of(dataset="digits", launcher="ray", cpus_per_peer=3.0)
    found = resolve(config, make_topology("ring", 4), 4)
    assert (found.compute.threads, found.compute.device, found.exchange.transport) == (3, "cpu", "tcp")


def test_a_missing_ray_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = ["--dataset", "digits", "--launcher", "ray", "--run-dir", str(tmp_path / "run")]
    assert main(["gossip", RING, *options]) == 2
    assert capsys.readouterr().err == (
        "p2pfl: --launcher ray: the package ray is not installed; pip install 'p2pfl-swarm[ray]'\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_peer_alone_has_no_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ray.toml").write_text(f'topology = "{RING}"\nlauncher = "ray"\n')
    assert main(["peer", "--config", str(tmp_path / "ray.toml"), "--node", "0"]) == 2
    assert "p2pfl peer is a peer alone" in capsys.readouterr().err
    assert main(["peer", RING, "--launcher", "ray", "--node", "0"]) == 2
    assert "there is no option --launcher" in capsys.readouterr().err


def test_another_launcher_drops_the_options_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "ray.toml"
    file.write_text(f'topology = "{RING}"\nlauncher = "ray"\nray_address = "auto"\ngpus_per_peer = 0.5\nrounds = 7\n')
    words = ["--config", str(file), "--launcher", "local"]
    local = resolve_options(Gossip, words, "gossip", "gossip").config
    assert (local.launch, local.training.rounds) == (LaunchConfig(), 7)
    again = resolve_options(Gossip, ["--config", str(file), "--launcher", "ray"], "gossip", "gossip").config
    assert again.launch.gpus_per_peer == 0.5


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = LaunchConfig(launcher="ray", ray_address=address)
        with (
            pytest.raises(ConfigError, match=f"^--ray-address {address}: no cluster answers there"),
            connected(options, 4, Path()),
        ):
            pass


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_auto_refuses_a_ray_address_where_no_cluster_is(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would try again for minutes, in which Ctrl-C has no effect."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = form.format(f"127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", address)
        said = f"^--ray-address auto: (no cluster answers at {address} |RAY_ADDRESS is {address}; it must be HOST:PORT)"
        with pytest.raises(ConfigError, match=said), connected(LaunchConfig("ray", "auto"), 4, Path()):
            pass


def test_a_cluster_that_does_not_start_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does after 30 s

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(P2PFLError, match="timed out during startup; where the machine is too busy, start one with"):
        connected(LaunchConfig("ray"), 4, Path()).__enter__()


def test_a_cluster_that_refuses_the_connection_may_ask_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")

    def init(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")  # as Ray does if the cluster's token is missing

    monkeypatch.setattr(ray, "init", init)
    with head(GRPC) as address, pytest.raises(ConfigError, match="and set RAY_AUTH_MODE=token where it asks for a"):
        connected(LaunchConfig("ray", address), 4, Path()).__enter__()


def test_a_dry_run_refuses_gpus_that_this_machine_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LaunchConfig(launcher="ray", gpus_per_peer=0.5)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert describe(options, 4).endswith("asked: 4 processes of 1 CPU and 0.5 GPU, spread")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(
        ConfigError, match=r"room for 0 processes of 1 CPU and 0\.5 GPU each, and the run has 4 \(1 node"
    ):
        describe(options, 4)
