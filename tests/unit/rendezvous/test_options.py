"""Options by which single peers find each other: what is refused, in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.helpers import token_file

from p2pfl import make_topology
from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.topology import save_topology
from p2pfl.transport.keyring import make_keys, pair_in_file

KEY = "0123456789abcdef" * 4
SERVICE = "tcp://127.0.0.1:7300"


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Topology file without hosts; the current folder is empty."""
    save_topology(make_topology("ring", 3), tmp_path / "ring.graphml")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return str(tmp_path / "ring.graphml")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["peer", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert list(Path().iterdir()) == [], "a refused command leaves nothing behind"
    return err


def test_the_node_is_named_in_one_way(
    ring: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    assert "--node 0, or a variable that does (--node-from SLURM_PROCID)" in refused(capsys, ring)
    assert "--node-from SLURM_PROCID: not set" in refused(capsys, ring, "--node-from", "SLURM_PROCID")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert "'3' is no node of" in refused(capsys, ring, "--node-from", "SLURM_PROCID")
    both = refused(capsys, ring, "--node-from", "SLURM_PROCID", "--node", "0")
    assert "--node-from SLURM_PROCID: means nothing with --node 0; leave one of them out" in both


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--insecure"], "or let the peers find each other (--rendezvous)"),
        (["--announce", "127.0.0.1", "--rendezvous", ""], "--rendezvous '': name a folder, or a service as tcp://"),
        (["--announce", "127.0.0.1"], "--announce 127.0.0.1: means nothing without --rendezvous"),
        (["--rendezvous-run", "job-7"], "--rendezvous-run job-7: means nothing without --rendezvous"),
        (["--rendezvous-key", KEY], "means nothing without --rendezvous"),
        (["--rendezvous-key", "k" * 64], "must be the 64 hexadecimal digits that p2pfl rendezvous prints"),
        (["--rendezvous", "meet", "--rendezvous-key", KEY], "--rendezvous-key: means nothing with a folder (meet)"),
        (["--rendezvous", "tcp://host"], "--rendezvous tcp://host: must be tcp://HOST:PORT"),
        (["--rendezvous", "tcp://*:7300"], "must be tcp://HOST:PORT"),
        (["--rendezvous", "10.0.0.1:7300", "--keys", "k"], "--rendezvous 10.0.0.1:7300: must be tcp://HOST:PORT"),
        (["--rendezvous", "tcp:/10.0.0.1:7300", "--keys", "k"], "must be tcp://HOST:PORT"),
        (["--rendezvous", "http://10.0.0.1:7300", "--token-file", "TOKEN", "--keys", "k"], "must be tcp://HOST:PORT"),
        (["--rendezvous", " ", "--keys", "k"], "must be tcp://HOST:PORT"),
        (["--rendezvous", SERVICE], "needs its public key (--rendezvous-key), as p2pfl rendezvous prints it"),
        (["--rendezvous", SERVICE, "--rendezvous-key", KEY, "--keys", "k"], "admits only peers with its token"),
        (["--rendezvous", "meet", "--transport", "ipc"], "--transport ipc: means nothing with --rendezvous"),
        (["--rendezvous", "meet", "--faults", "x.toml"], "needs a launcher"),
        (["--rendezvous", "meet"], "anybody who reaches its port could speak for its neighbors; add --keys DIR"),
        (["--rendezvous", "meet", "--insecure", "--announce", "192.0.2.1"], "anybody who reaches its port"),
        (["--rendezvous", "meet", "--announce", "0.0.0.0:7"], "--announce 0.0.0.0:7: no address"),
        (["--rendezvous", "meet", "--token-file", "TOKEN", "--announce", "192.0.2.1"], "add --keys DIR, or --insecure"),
        (["--rendezvous", "meet", "--token-file", "TOKEN", "--keys", "k"], "means nothing with --keys"),
        (["--rendezvous", "meet", "--keys", "k", "--check"], "--check: means nothing with --dry-run"),
        (["--rendezvous", "meet", "--token-file", "none"], "--token-file none: cannot be read"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], said: str
) -> None:
    options = [token_file(tmp_path) if word == "TOKEN" else word for word in options]
    assert said in refused(capsys, ring, "--node", "0", "--dry-run", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--token-file", "TOKEN", "--bind", "7300"], "--bind 7300: must be tcp://HOST:PORT, for example tcp://*:7300"),
        (["--token-file", "TOKEN", "--bind", "tcp://*:0"], "must be tcp://HOST:PORT"),
        (["--token-file", "none"], "--token-file none: cannot be read"),
        (["--token-file", "TOKEN", "--key", "missing/key"], "--key missing/key: cannot be written"),
        (["--token-file", "TOKEN", "--key", "TOKEN"], "not a secret key (40 characters); remove it"),
        ([], "--token-file"),
    ],
)
def test_bad_options_of_the_service_are_refused_in_one_line(
    ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], said: str
) -> None:
    token = token_file(tmp_path)
    assert main(["rendezvous", ring, *(token if word == "TOKEN" else word for word in options)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_the_service_s_key_is_made_once(tmp_path: Path) -> None:
    made = pair_in_file("--key", tmp_path / "key")
    assert pair_in_file("--key", tmp_path / "key") == made
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"others can read it \(mode 0644\); chmod 600"):
        pair_in_file("--key", tmp_path / "key")


def test_public_keys_of_the_file_are_for_these_keys_only(
    ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_keys(Path(ring), tmp_path / "keys")
    words = [ring, "--node", "0", "--dry-run", "--rendezvous", "meet", "--announce", "127.0.0.1"]
    assert "has public keys; say where the secret ones are (--keys DIR)" in refused(capsys, *words)
    assert "cannot be read" in refused(capsys, *words, "--keys", str(tmp_path / "others"))
    assert not (tmp_path / "others").exists()


def test_a_check_of_a_neighbor_that_is_not_there_fails_in_one_line(
    ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["peer", ring, "--node", "1", "--rendezvous", str(tmp_path / "meet"), "--announce", "127.0.0.1"]
    assert main([*words, "--keys", str(tmp_path / "keys"), "--check", "--start-timeout", "0.2"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(
        "p2pfl: peer 1: 2 of 2 neighbors not reachable both ways within 0.2 s (--start-timeout): 0"
    )
    assert said.err.count("\n") == 1
    assert [line.partition(":")[0] for line in said.out.splitlines()] == [
        "peer 1",
        "peer 0 (no address announced)",
        "peer 2 (no address announced)",
    ]
    assert list(Path().iterdir()) == [], "no run directory"


def test_a_launcher_takes_no_rendezvous(ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text('topology = "ring.graphml"\n[exchange]\nrendezvous = "meet"\n')
    for command in (["gossip"], ["gossip", "--dry-run"], ["compare", "--dry-run"]):
        assert main([*command, "--config", str(settings), "--dataset", "digits"]) == 2
        assert "rendezvous meet: only for p2pfl peer; a launcher needs none" in capsys.readouterr().err


def test_a_dry_run_of_a_peer_that_will_be_found_needs_no_addresses_and_makes_nothing(
    ring: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", "peer-2")
    words = ["peer", ring, "--node-from", "HOSTNAME", "--rendezvous", "meet", "--announce", "127.0.0.1"]
    assert main([*words, "--keys", "keys", "--dataset", "digits", "--width", "0.125", "--dry-run"]) == 0
    assert "3 peers" in capsys.readouterr().out
    assert list(Path().iterdir()) == []
