"""Limit of open files, raised before a run as far as the run needs."""

from __future__ import annotations

import resource
import sys

from p2pfl.errors import P2PFLError
from p2pfl.transport.admission import STRANGERS
from p2pfl.transport.segments import MAX_SLOTS

# As measured, with room to spare: libraries and streams; a worker's pipe, sentinel, end and pidfd.
_BARE_FILES = 48
_FILES_PER_WORKER = 6
# Of a neighbor: three sockets of ZeroMQ, each with a signaler (an eventfd; elsewhere a pair of sockets), the
# connections in either direction, and a second handle of each.
_FILES_PER_NEIGHBOR = 8 if sys.platform == "linux" else 12
_FILES_PER_STRANGER = 2
# Segments of shared memory: three for each neighbor where each gets another vector, and one that is shown.
_FILES_PER_SHARED = 3 if sys.platform == "linux" else 0


def files_needed(processes: int, neighbors: int) -> int:
    """Number of open files that the launcher or one of its processes needs at most.

    A launcher needs some for each process, a process some for each neighbor.
    """
    shared = min(_FILES_PER_SHARED * (neighbors + 1), MAX_SLOTS)
    return _BARE_FILES + max(_FILES_PER_WORKER * processes, _FILES_PER_NEIGHBOR * neighbors + shared)


def allow_open_files(processes: int, neighbors: int) -> None:
    """Raise the soft limit to the open files of that many processes and neighbors.

    Where the hard limit permits, it also allows for strangers, and for a second set of connections before the first one
    is closed. Raises P2PFLError where the hard limit is below `files_needed`: libraries that run out of files in the
    middle of a run abort, or print messages that are hard to understand.
    """
    needed = files_needed(processes, neighbors)
    wished = files_needed(processes, 2 * neighbors) + _FILES_PER_STRANGER * STRANGERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wished:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise P2PFLError(
            f"only {hard:,} files may be open at once, and this run needs up to {needed:,}",
            remedy=f"raise the limit (ulimit -n {needed}), or take fewer processes or neighbors",
        )
    allowed = wished if hard == resource.RLIM_INFINITY else min(wished, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
