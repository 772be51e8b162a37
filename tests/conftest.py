"""Shared by all tests: a cache folder of the test session's own, one thread for torch, patient hypothesis."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
import warm

from p2pfl.launcher import fork_server

# Where the tests run in the background, Ctrl-C is ignored, and so it would be in every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timing is no property of the code on a machine that others use too.
hypothesis.settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared-machine")


def pytest_configure(config: pytest.Config) -> None:
    """Start the warm server of all processes of the session, before there are others than this one."""
    if warm.ADDRESS not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="t-"))  # a socket's path must be short
        server = warm.start_server(folder)
        config.add_cleanup(lambda: (server.kill(), server.wait(), shutil.rmtree(folder)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: where several processes share the files, none begins a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded data sets go to a folder that the session makes, not to the user's cache."""
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def one_fork_server(own_cache: None) -> Iterator[None]:
    """One fork server for all runs that the tests of this process start themselves; it starts with the first."""
    with fork_server():
        yield
