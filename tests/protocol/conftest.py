"""Fixture of all tests on simulated swarms."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is simulated: nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
