"""Libraries that cannot be imported end a run in one line."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import p2pfl
from p2pfl import RunConfig, make_topology
from p2pfl import launch as launcher
from p2pfl.errors import P2PFLError, not_imported
from p2pfl.launch.prepare import prepare_data
from p2pfl.modes import assign_roles


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("libtorch_python.so: failed to map segment from shared object"), "(ulimit -v is 9 KiB)"),
        (OSError("libgomp.so: failed to map segment from shared object"), "(ulimit -v is 9 KiB)"),
        (MemoryError(), "(ulimit -v is 9 KiB)"),
        (ImportError("No module named 'torch'"), "python -c 'import torch'"),
    ],
)
def test_what_helps_is_said(error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: (9 * 1024, 9 * 1024))
    assert str(error) in str(not_imported(error))
    assert str(not_imported(error)).endswith(remedy)


def without_estimate(target: Any, *arguments: Any) -> None:
    """Run a process that cannot import one of the modules that need torch."""
    vars(p2pfl).pop("estimate", None)
    sys.modules["p2pfl.preflight.estimate"] = None  # type: ignore[assignment]
    target(*arguments)


@pytest.mark.processes
def test_the_data_process_reports_it_instead_of_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = RunConfig.of(dataset="digits")
    observer: Any = SimpleNamespace(say=print, progress=print)
    with launcher.fork_server() as processes:

        def start(name: str, target: Any, *arguments: Any) -> Any:
            return processes.start(name, without_estimate, target, *arguments)

        server: Any = SimpleNamespace(start=start, folder=processes.folder)
        with pytest.raises(P2PFLError, match=r"^the libraries cannot be imported \(.*estimate"):
            prepare_data(config, assign_roles(config, make_topology("ring", 3)), tmp_path, observer, server)
    assert "Traceback" not in capfd.readouterr().err
