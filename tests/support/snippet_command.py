"""Command of a snippet, `p2pfl …` or `python …`, by the session's warm server.

Shells of the snippets find it as `p2pfl` and `python` (see `snippet_session`).
"""

from __future__ import annotations

import os
import signal
import sys

from tests.support import warm
from tests.support.paths import ROOT
from tests.support.tiny import tiny_arguments

RUN_PEERS = str(ROOT / "run_peers.py")


def main(program: str, *words: str) -> int:
    """Run one command of a snippet with tiny sizes, on this process's descriptors."""
    if program == "p2pfl":
        command = [RUN_PEERS, *tiny_arguments(list(words))]
    elif words and words[0].endswith("run_peers.py"):
        command = [RUN_PEERS, *tiny_arguments(list(words[1:]))]
    else:
        command = list(words)
    process = warm.WarmPopen([sys.executable, *command], env=dict(os.environ))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(process.pid, received))
    status = process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
