"""Command by which this program was started, for commands that it prints."""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> tuple[str, ...]:
    """Words before the arguments: ("p2pfl",), where the installed command was started.

    In a checkout ("python", "run_peers.py"), with the path that was used, or ("python", "-m", "p2pfl"). A script that
    calls the package has no command of p2pfl, so it is the installed one.
    """
    started = Path(sys.argv[0] if sys.argv else "")
    if started.name == "run_peers.py":
        return ("python", str(started))
    if (started.parent.name, started.name) == ("p2pfl", "__main__.py"):
        return ("python", "-m", "p2pfl")
    return ("p2pfl",)
