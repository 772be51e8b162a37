"""The commands: `p2pfl COMMAND …`, the same as `python run_peers.py COMMAND …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from p2pfl.cli import graphs, results, train
from p2pfl.errors import ConfigError, P2PFLError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except ConfigError as error:
        return _complain(error, USAGE)
    except P2PFLError as error:
        from p2pfl.swarm import Interrupted

        return _complain(error, INTERRUPTED if isinstance(error, Interrupted) else FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does; keep Python from complaining at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _complain(error: object, status: int) -> int:
    print(f"p2pfl: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"p2pfl {version('p2pfl-swarm')}")
        return OK
    for length in (2, 1):
        command = COMMANDS.get(" ".join(words[:length]))
        if command is not None:
            return command[0](words[length:])
    if words[0] == "topology":
        raise ConfigError("topology: choose 'topology make' or 'topology show'; see p2pfl --help")
    raise ConfigError(f"{words[0]}: no such command; known are {', '.join(COMMANDS)} (see p2pfl --help)")


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


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "gossip": (
        train.gossip,
        "train a swarm over a topology file, one process a peer, and average to consensus",
    ),
    "peer": (train.peer, "run one peer of a swarm that is spread over machines"),
    "topology make": (graphs.make, "write a topology file: ring, path, star, complete, torus, …"),
    "topology show": (
        graphs.show,
        "picture, degrees, spectral gap and rounds to consensus of a topology file",
    ),
    "report": (results.report, "tables and plots of recorded runs"),
}
