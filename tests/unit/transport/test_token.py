"""Token of peers without keys: requirement, checks, never written anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.helpers import token_file
from tests.support.paths import ROOT

from p2pfl import make_topology
from p2pfl.cli import main
from p2pfl.config import ExchangeConfig
from p2pfl.errors import ConfigError
from p2pfl.node.messages import WorkerSpec
from p2pfl.topology import save_topology
from p2pfl.transport import Token
from p2pfl.transport.keyring import own_token

RING = str(ROOT / "topologies" / "ring-4.graphml")


def write(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def test_a_token_is_read_from_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = Path(token_file(tmp_path))
    assert own_token(str(path)) == path.read_text().strip()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others can read it \(mode 0640\); chmod 600 "):
        own_token(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no token"),
        (" \n\n", "holds no token"),
        ("x" * 31, "31 characters; a token has at least 32"),
        ("ab" * 40, "easily guessed"),
        ("0123456789abcdef\n" * 3, "not a token"),
        ("0123456789abcdef" * 100, "not a token"),
        (bytes(range(128, 228)), "holds no token"),
        (bytes(range(100)), "not a token"),
    ],
    ids=["empty", "blank", "short", "monotonous", "lines", "long", "binary", "control"],
)
def test_what_is_no_token_is_refused_with_a_way_to_make_one(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own_token(write(tmp_path / "token", content))
    assert f"--token-file {tmp_path / 'token'}: {reason}" in str(caught.value)
    assert "chmod 600 FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="chmod 600 FILE"):
        own_token("/dev/zero" if kind == "device" else str(path))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


def test_who_needs_a_token_and_who_must_not_have_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = make_topology("ring", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host="127.0.0.1", port=7000 + peer)
    save_topology(topology, tmp_path / "lan.graphml")
    token = ["--token-file", token_file(tmp_path)]
    peer = ["peer", str(tmp_path / "lan.graphml"), "--node", "1", "--dataset", "digits", "--width", "0.125"]
    alone = refused(peer, capsys)
    assert "--token-file FILE" in alone
    assert "--insecure" in alone
    assert main([*peer, "--dry-run", "--insecure"]) == 0
    assert main([*peer, "--dry-run", *token]) == 0
    config = tmp_path / "run.toml"
    config.write_text(f'topology = "{RING}"\n[exchange]\ntoken_file = "{token[1]}"\n')
    from_file = ["--config", str(config), "--dataset", "digits"]
    for words in (["gossip", *from_file], ["gossip", *from_file, "--dry-run"], ["compare", *from_file, "--dry-run"]):
        assert "only for p2pfl peer" in refused(words, capsys)
    for command in (["gossip", RING], ["centralized"], ["compare", RING], ["sgd"], ["local", RING]):
        assert "--token-file" in refused([*command, *token, "--dry-run"], capsys)
        assert "--token-file" not in help_of(command[0], capsys)
    assert "--token-file FILE" in help_of("peer", capsys)
    config.write_text(f'topology = "lan.graphml"\n[exchange]\ntoken_file = "{token[1]}"\n')
    assert main(["peer", *from_file, "--node", "1", "--width", "0.125", "--dry-run"]) == 0
    assert main(["keys", str(tmp_path / "lan.graphml"), "-o", str(tmp_path / "keys")]) == 0
    assert "means nothing with --keys" in refused([*peer, *token, "--keys", str(tmp_path / "keys")], capsys)
    assert list(Path().glob("runs/*lan*")) == []


def test_a_token_is_not_shown_by_what_holds_it() -> None:
    secret = "0123456789abcdef" * 2
    spec = WorkerSpec(None, Path(), Path(), 0, "", "", "", token=secret)  # type: ignore[arg-type]
    assert secret not in repr(spec) + repr(Token(secret, 0, frozenset()))
    assert ExchangeConfig().token_file is None
