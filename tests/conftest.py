"""Shared by all tests: a cache folder of the test session's own, one thread for torch, patient hypothesis."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest
import torch

# Where the tests run in the background, Ctrl-C is ignored, and so it would be in every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timing is no property of the code on a machine that others use too.
hypothesis.settings.register_profile(
    "shared-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: where several processes share the files, none begins a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded data sets go to a folder that the session makes, not to the user's cache."""
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
