"""Start of the p2pfl command as by a user: argv, pipes, session, signals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support import warm
from tests.support.paths import MODELS, ROOT

PROGRAM = (sys.executable, str(ROOT / "run_peers.py"))


def start(
    *words: str,
    environment: dict[str, str] | None = None,
    cold: bool = False,
    program: tuple[str, ...] = PROGRAM,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start `run_peers.py WORDS`.

    `environment` is added to the test's own, `options` are those of Popen. It runs in the folder of the tests, and its
    output and error output are pipes, unless `options` say otherwise. `cold`: in a new interpreter, instead of a fork
    of the session's warm server (see `warm`).
    """
    settings: dict[str, Any] = {"cwd": MODELS, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings |= {"env": {**os.environ, **(environment or {})}, **options}
    is_warm = not cold and warm.ADDRESS in os.environ and warm.can_serve(settings["env"])
    kind = warm.WarmPopen if is_warm and not settings.get("preexec_fn") else subprocess.Popen
    return kind([*program, *words], **settings)


def run(*words: str, timeout: float = 200.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `run_peers.py WORDS` to its end; options as for `start`.

    Raises TimeoutExpired after killing the process.
    """
    with start(*words, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)
