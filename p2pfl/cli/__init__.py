"""The commands: `p2pfl COMMAND …`, the same as `python run_peers.py COMMAND …`."""

from __future__ import annotations

# Only what is there in a moment: a Ctrl-C meanwhile ends in a traceback. `main` imports the rest.
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise

from p2pfl.errors import ConfigError, Interrupted, P2PFLError, UnforeseenError, unforeseen
from p2pfl.util.signals import INTERRUPTED, end_at_once, ignore_all, interrupt_from_now_on, interrupted
from p2pfl.util.text import known_are, visible

OK, FAILED, USAGE = 0, 1, 2
_OPTION = re.compile(r"(?<![\w/.-])--[a-z][a-z0-9-]*")

COMMANDS = {
    "gossip": ("train:gossip", "train a swarm over a topology file, one process a peer, and average to consensus"),
    "centralized": ("train:centralized", "train with a coordinator that averages its clients' updates (FedAvg)"),
    "sgd": ("train:sgd", "train one model in one process on all data: the baseline"),
    "local": ("train:local", "train the peers of a topology file without any exchange"),
    "compare": (
        "compare:compare",
        "matched runs of several topologies and modes, in one report",
    ),
    "peer": ("train:peer", "run one peer of a swarm that is spread over machines"),
    "keys": ("keys:keys", "make a key pair for each peer of a topology file: encrypted, authenticated links"),
    "topology make": ("topology:make", "write a topology file: ring, path, star, complete, torus, …"),
    "topology fix": ("topology:fix", "mend a graph that cannot be a topology, or convert a file to another format"),
    "topology show": ("topology:show", "degrees, spectral gap and rounds to consensus of a topology file; a picture"),
    "report": ("report:report", "tables and plots of recorded runs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 bad usage or input, 130 interrupted.

    Without `arguments` it is the program itself: it takes those of the command line, and keeps the signals by
    which a terminal or a service manager ends it: each of them does what Ctrl-C does, from here to the end.
    """
    if arguments is not None:
        return _run(list(arguments))
    for number in range(3):
        _open_if_closed(number)
    end_at_once()
    try:
        return _run(sys.argv[1:], prepared=interrupt_from_now_on)
    except KeyboardInterrupt:  # while the line for an error was written
        return INTERRUPTED
    finally:
        ignore_all()


def _open_if_closed(number: int) -> None:
    """Keep a closed file descriptor of 0 to 2 from becoming a pipe of ours, which prints would then get into."""
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest number that is free


def _run(words: list[str], prepared: Callable[[], object] = lambda: None) -> int:
    """Run a command whose output may get lost; calls `prepared` when it is imported. A reader may leave, as `head`."""
    from p2pfl.ui.stream import SafeStream

    out, err = SafeStream(sys.stdout), SafeStream(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _warn(message)
            try:
                status = _explained(words, prepared)
            except SystemExit as end:
                if end.code or not out.full():
                    raise
                status = OK
            if status == OK and out.full():
                status = _complain(f"standard output: {out.error}", FAILED)
            return status
    finally:
        out.discard()
        err.discard()


def _explained(words: list[str], prepared: Callable[[], object]) -> int:
    try:
        command = _find(words)
        prepared()
        status = command()
        sys.stdout.flush()  # here, since the reader may be slow and Ctrl-C come meanwhile
        return status
    except ConfigError as error:
        return _complain(_with_settings_file(words, str(error)), USAGE)
    except P2PFLError as error:
        if isinstance(error, UnforeseenError) and interrupted():
            return _complain(f"interrupted ({error})", INTERRUPTED)
        return _complain(error, INTERRUPTED if isinstance(error, Interrupted) else FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:  # a bug, or a machine that has run out of something: one line is promised all the same
        if interrupted():
            return _complain("interrupted", INTERRUPTED)
        return _complain(unforeseen(error), FAILED)


def _complain(error: object, status: int) -> int:
    print(f"p2pfl: {_line(error)}", file=sys.stderr)
    return status


def _with_settings_file(words: Sequence[str], said: str) -> str:
    """A complaint, and before its remedy the file of --config, where an option is to blame that is not in `words`."""
    spelled = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named = [*spelled, *(file for option, file in pairwise(words) if option == "--config")]
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    what, semicolon, remedy = said.partition("; ")
    blamed = set(_OPTION.findall(what)) - {option.replace("--no-", "--") for option in given} - given - {"--help"}
    if not blamed or not named or named[0] in said:
        return said
    return f"{what} (with the settings in {named[0]}){semicolon}{remedy}"


def _line(text: object) -> str:
    return visible(" ".join(str(text).split()), controls=True)


def _warn(message: Warning | str) -> None:
    """What a library warns of, in one line like everything else that a user reads."""
    print(f"p2pfl: warning: {_line(message)}", file=sys.stderr)


def _find(words: list[str]) -> Callable[[], int]:
    """The command that is meant, imported. Raises ConfigError if there is none."""
    if not words or words[0] in ("-h", "--help", "help") or words[:2] in (["topology", "-h"], ["topology", "--help"]):
        return lambda: _say(_overview())
    if words[0] == "--version":
        from importlib.metadata import version

        return lambda: _say(f"p2pfl {version('p2pfl-swarm')}")
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            module, function = COMMANDS[name][0].split(":")
            run: Callable[[list[str]], int] = getattr(import_module(f"p2pfl.cli.{module}"), function)
            return lambda: run(words[length:])
    if words[0] == "topology":
        raise ConfigError("topology: choose 'topology make', 'topology fix' or 'topology show'; see p2pfl --help")
    raise ConfigError(f"{words[0]}: no such command{known_are(words[0], COMMANDS)} (see p2pfl --help)")


def _say(text: str) -> int:
    print(text)
    return OK


def _overview() -> str:
    lines = [f"  {name:<15} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: p2pfl COMMAND [ARGUMENTS]     (python run_peers.py COMMAND … is the same)",
            "",
            "One model trained over many machines that never show each other their data.",
            "",
            "commands:",
            *lines,
            "",
            "p2pfl COMMAND --help explains a command and its options.",
            "Exit status: 0 done, 1 the run failed, 2 bad usage or input, 130 interrupted.",
        ]
    )
