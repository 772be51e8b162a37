"""Folders of the work tree that tests read from."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "support" / "models"  # modules as a user brings them, named as MODULE:FUNCTION
