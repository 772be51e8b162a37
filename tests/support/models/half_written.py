"""Model whose module stops one peer in the middle of a checkpoint.

Which one: P2PFL_TEST_HALF=NAME:ROUND.

Every worker imports the module of a user's model before it saves anything, and so it works in real processes.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from user_models import linear as linear

_replace = os.replace


def _stop_halfway(source: Any, target: Any, **options: Any) -> None:
    name, number = os.environ["P2PFL_TEST_HALF"].split(":")
    if f"/peers/{name}/checkpoint/.round-{int(number):06d}.safetensors." in str(source):
        os.truncate(source, os.path.getsize(source) // 2)
        threading.Event().wait()
    _replace(source, target, **options)


if "P2PFL_TEST_HALF" in os.environ:
    os.replace = _stop_halfway
