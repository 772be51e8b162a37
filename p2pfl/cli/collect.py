"""`collect`: the run directories of a run's peers, brought together in one."""

from __future__ import annotations

import contextlib
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse
from p2pfl.errors import ConfigError, unwritable
from p2pfl.rendezvous.client import ServiceClient
from p2pfl.rendezvous.download import download
from p2pfl.rendezvous.entry import is_address
from p2pfl.rendezvous.token_keys import is_hex_key
from p2pfl.run.collect import Collected
from p2pfl.run.collect import collect as bring_together
from p2pfl.transport.keyring import own_token
from p2pfl.util.text import some

_TCP = "tcp://"


@dataclass(frozen=True)
class Collect:
    """Bring the run directories of one run's peers together in one.

    The result is a run directory of the usual form, for `p2pfl report`, `p2pfl compare` and all else. Sources may be
    on a shared folder and of peers that are still running; the same command again brings what is new. Newer files are
    never replaced by older ones. Directories of different runs are refused. A source tcp://HOST:PORT is a p2pfl
    rendezvous --records, which has all but weights.
    """

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...", help_behavior_hint="(required)")
    ]
    """Run directories of `p2pfl peer`, folders of such, or tcp://HOST:PORT."""
    run_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Run directory for all peers: a new one, or one that has some of them."""
    rendezvous_key: Annotated[str | None, tyro.conf.arg(metavar="KEY", help_behavior_hint="(with tcp://)")] = None
    """Public key of p2pfl rendezvous, as it prints it."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(with tcp://)")] = None
    """File with the secret shared by all peers: only its holders may collect."""
    rendezvous_run: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(with tcp://)")] = None
    """Name of the start, as given to the peers; needed where the service has the records of several."""


def collect(words: list[str]) -> int:
    """Collect run directories, and print what came of it."""
    arguments = parse(Collect, words, "collect")
    if not arguments.sources:
        raise ConfigError("collect: name the run directories of peers, or a folder that has them")
    services = [source for source in arguments.sources if source.startswith(_TCP)]
    folders = [Path(source) for source in arguments.sources if not source.startswith(_TCP)]
    _check_options(arguments, services)
    with contextlib.ExitStack() as held:
        for number, where in enumerate(services):
            folders.append(_fetched(arguments, where, held, number))
        found = bring_together(folders, arguments.run_dir)
    print(_described(found, arguments.run_dir))
    if found.missing:
        print(f"p2pfl: warning: no run directory of {some(found.missing, 8)}", file=sys.stderr)
    return 0


def _check_options(arguments: Collect, services: list[str]) -> None:
    """Check that a service can be asked. Raises ConfigError."""
    for name in ("rendezvous_key", "token_file", "rendezvous_run"):
        value = getattr(arguments, name)
        if value is not None and not services:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: means nothing without a source tcp://HOST:PORT")
    for where in services:
        if not is_address(where):
            raise ConfigError(f"{where}: must be tcp://HOST:PORT, as p2pfl rendezvous prints it, or a folder")
        if arguments.rendezvous_key is None or arguments.token_file is None:
            raise ConfigError(
                f"{where}: needs --rendezvous-key KEY and --token-file FILE, as p2pfl rendezvous prints them"
            )
        if not is_hex_key(arguments.rendezvous_key):
            raise ConfigError(
                f"--rendezvous-key {arguments.rendezvous_key}: must be the 64 hexadecimal digits that p2pfl rendezvous "
                "prints"
            )


def _fetched(arguments: Collect, where: str, held: contextlib.ExitStack, number: int) -> Path:
    """Folder with what a service has, beside the result; removed in the end."""
    target = arguments.run_dir
    token = own_token(str(arguments.token_file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = held.enter_context(tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"--run-dir {unwritable(target, error)}, or choose another") from None
    folder = Path(name)
    with contextlib.closing(ServiceClient(where, str(arguments.rendezvous_key), token, None)) as client:
        download(client, arguments.rendezvous_run, folder)
    return folder


def _described(found: Collected, run_dir: Path) -> str:
    counts = {"copied": found.copied, "up to date": found.up_to_date, "newer than in the sources": found.newer}
    told = ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names) or "none copied"
    missing = f", {len(found.missing)} missing" if found.missing else ""
    return f"{run_dir}: peers: {told}{missing}; report with: {shlex.join(['p2pfl', 'report', str(run_dir)])}"
