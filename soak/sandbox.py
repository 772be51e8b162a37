"""Sandbox of separate network, mount and process namespaces, if allowed here."""

from __future__ import annotations

import shutil
import subprocess


def sandbox() -> tuple[list[str], str]:
    """Command prefix that enters new namespaces as root, or nothing and the reason."""
    for tool in ("unshare", "ip", "tc"):
        if shutil.which(tool) is None:
            return [], f"{tool} is not installed (packages util-linux and iproute2)"
    base = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    reason = ""
    for words in (base, [*base, "--user", "--map-root-user"]):
        tried = "mount -t tmpfs tmpfs /run && ip netns add probe"
        done = subprocess.run([*words, "sh", "-c", tried], capture_output=True, text=True)
        if done.returncode == 0:
            return words, ""
        reason = (done.stderr.strip().splitlines() or ["unshare failed"])[-1]
    return [], f"namespaces are not allowed here ({reason})"
