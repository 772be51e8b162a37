"""The system's limit of open files, raised as far as a run needs it before it starts."""

from __future__ import annotations

import resource

from p2pfl.errors import P2PFLError

# As measured, with room to spare: libraries and streams; a worker's pipe, sentinel, end and pidfd; a neighbor's two
# sockets.
_BARE_FILES = 48
_FILES_PER_WORKER = 6
_FILES_PER_NEIGHBOR = 6


def allow_open_files(processes: int, neighbors: int) -> None:
    """Raise the soft limit to what a launcher of so many processes, or one with so many neighbors, needs at most.

    Raises P2PFLError where the hard limit does not allow it: libraries that run out of files in the middle of a run
    abort, or print what nobody understands.
    """
    needed = _BARE_FILES + max(_FILES_PER_WORKER * processes, _FILES_PER_NEIGHBOR * neighbors)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise P2PFLError(
            f"only {hard:,} files may be open at once, and this run needs up to {needed:,}",
            remedy=f"raise the limit (ulimit -n {needed}), or take fewer processes or neighbors",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
