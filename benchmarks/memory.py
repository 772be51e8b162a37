"""Age and memory of this process on Linux: private pages and mapped files."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PRIVATE = ("Private_Clean", "Private_Dirty")


def age() -> float:
    """Seconds since this process was forked, to the hundredth."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # field 22, in ticks since the boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")


def private_bytes() -> int:
    """Bytes of pages that no other process has: the unique set size."""
    return _total(Path("/proc/self/smaps_rollup").read_text().splitlines(), *_PRIVATE)


def mapping_bytes(suffix: str) -> dict[str, int]:
    """Bytes of the mapped files whose names end with a suffix.

    `data_copied`: pages that this process has changed, and so holds a copy of. `data_alone`: the file's own pages,
    which only this process has mapped at the moment. `data_share`: of every page the part that falls to this process.
    """
    lines: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field = line.split(maxsplit=1)[0]
        if not field.endswith(":"):  # the head of a mapping: addresses, rights, …, file
            inside = line.endswith(suffix)
        elif inside:
            lines.append(line)
    return {
        "data_copied": _total(lines, "Anonymous"),
        "data_alone": _total(lines, "Private_Clean"),
        "data_share": _total(lines, "Pss"),
    }


def _total(lines: list[str], *names: str) -> int:
    wanted = tuple(f"{name}:" for name in names)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))
