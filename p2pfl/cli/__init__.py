"""Command line: `p2pfl COMMAND …`, the same as `python run_peers.py COMMAND …`."""

from __future__ import annotations

# Only fast imports, as a Ctrl-C meanwhile ends in a traceback; `main` imports the rest.
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
    "gossip": ("train:gossip", "train a swarm over a topology, one process per peer, up to a consensus model"),
    "centralized": ("train:centralized", "train with a coordinator that averages its clients' updates (FedAvg)"),
    "sgd": ("train:sgd", "train one model in one process on all data: the baseline"),
    "local": ("train:local", "train the peers of a topology file without any exchange"),
    "compare": (
        "compare:compare",
        "compare matched runs of several topologies and modes in one report",
    ),
    "peer": ("train:peer", "run one peer of a swarm distributed over machines"),
    "rendezvous": ("rendezvous:rendezvous", "run a directory service through which peers find each other"),
    "keys": ("keys:keys", "generate key pairs for the peers of a topology: encrypted, authenticated links"),
    "topology make": ("topology:make", "write a topology file: ring, path, star, complete, torus, …"),
    "topology fix": ("topology:fix", "repair a graph that is not a valid topology, or convert it to another format"),
    "topology show": ("topology:show", "show degrees, spectral gap and rounds to consensus of a topology; draw it"),
    "report": ("report:report", "write tables and plots of recorded runs"),
    "collect": ("collect:collect", "bring the run directories of one run's peers together in one"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0 is success, 1 failure, 2 bad usage or input, 130 an interrupt. Without `arguments` this is the program itself: it
    takes those of the command line, and handles the signals by which a terminal or a service manager ends a program
    like Ctrl-C, to its end.
    """
    if arguments is not None:
        return _run(list(arguments))
    for number in range(3):
        _open_if_closed(number)
    end_at_once()
    try:
        return _run(sys.argv[1:], prepared=interrupt_from_now_on)
    except KeyboardInterrupt:  # while an error was printed
        return INTERRUPTED
    finally:
        ignore_all()


def _open_if_closed(number: int) -> None:
    """Open a closed standard descriptor (0 to 2) as /dev/null.

    Otherwise one of our pipes would take its number, and prints would end up in it.
    """
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest free number


def _run(words: list[str], prepared: Callable[[], object] = lambda: None) -> int:
    """Run a command, and report lost output, unless its reader left, such as `head`.

    Calls `prepared` once the command is imported.
    """
    from p2pfl.ui.stream import SafeStream

    out, err = SafeStream(sys.stdout), SafeStream(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _print_warning(message)
            try:
                status = _run_command(words, prepared)
            except SystemExit as end:
                if end.code or not out.has_lost_text():
                    raise
                status = OK
            if status == OK and out.has_lost_text():
                status = _print_error(f"standard output: {out.error}", FAILED)
            return status
    finally:
        out.discard()
        err.discard()


def _run_command(words: list[str], prepared: Callable[[], object]) -> int:
    """Exit status of a command; errors are printed as one line."""
    try:
        command = _find(words)
        prepared()
        status = command()
        sys.stdout.flush()  # here, as a slow reader may be interrupted by Ctrl-C
        return status
    except ConfigError as error:
        return _print_error(_with_settings_file(words, str(error)), USAGE)
    except P2PFLError as error:
        if isinstance(error, UnforeseenError) and interrupted():
            return _print_error(f"interrupted ({error})", INTERRUPTED)
        return _print_error(error, INTERRUPTED if isinstance(error, Interrupted) else FAILED)
    except KeyboardInterrupt:
        return _print_error("interrupted", INTERRUPTED)
    except Exception as error:  # a bug, or exhausted resources: still one line
        if interrupted():
            return _print_error("interrupted", INTERRUPTED)
        return _print_error(unforeseen(error), FAILED)


def _print_error(error: object, status: int) -> int:
    print(f"p2pfl: {_line(error)}", file=sys.stderr)
    return status


def _with_settings_file(words: Sequence[str], message: str) -> str:
    """Error message that names the --config file, if its option is not in `words`."""
    spelled = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named = [*spelled, *(file for option, file in pairwise(words) if option == "--config")]
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    problem, semicolon, remedy = message.partition("; ")
    unseen = set(_OPTION.findall(problem)) - {option.replace("--no-", "--") for option in given} - given - {"--help"}
    if not unseen or not named or named[0] in message:
        return message
    return f"{problem} (with the settings in {named[0]}){semicolon}{remedy}"


def _line(text: object) -> str:
    return visible(" ".join(str(text).split()), controls=True)


def _print_warning(message: Warning | str) -> None:
    """Print a library's warning as one line."""
    print(f"p2pfl: warning: {_line(message)}", file=sys.stderr)


def _find(words: list[str]) -> Callable[[], int]:
    """Find and import a command. Raises ConfigError for an unknown one."""
    if not words or words[0] in ("-h", "--help", "help") or words[:2] in (["topology", "-h"], ["topology", "--help"]):
        return lambda: _print(_overview())
    if words[0] == "--version":
        from importlib.metadata import version

        return lambda: _print(f"p2pfl {version('p2pfl-swarm')}")
    for length in (2, 1):
        if (name := " ".join(words[:length])) in COMMANDS:
            module, function = COMMANDS[name][0].split(":")
            run: Callable[[list[str]], int] = getattr(import_module(f"p2pfl.cli.{module}"), function)
            return lambda: run(words[length:])
    if words[0] == "topology":
        raise ConfigError("topology: choose 'topology make', 'topology fix' or 'topology show'; see p2pfl --help")
    raise ConfigError(f"{words[0]}: no such command{known_are(words[0], COMMANDS)} (see p2pfl --help)")


def _print(text: str) -> int:
    print(text)
    return OK


def _overview() -> str:
    lines = [f"  {name:<15} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: p2pfl COMMAND [ARGUMENTS]     (in a checkout also: python run_peers.py COMMAND …)",
            "",
            "Train one model over many machines, each of which keeps its data to itself.",
            "",
            "commands:",
            *lines,
            "",
            "p2pfl COMMAND --help describes a command and its options.",
            "Exit status: 0 success, 1 the run failed, 2 bad usage or input, 130 interrupted.",
        ]
    )
