"""Settings under which a process shares its vectors with neighbors on its machine."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfl.config import ExchangeConfig, shares_memory


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, True),
        ({"transport": "shm"}, True),
        ({"transport": "ipc"}, False),
        ({"transport": "tcp"}, False),
        ({"keys": "keys"}, False),
        ({"token_file": "token"}, False),
        ({"keys": "keys", "transport": "shm"}, True),
        ({"token_file": "token", "transport": "shm"}, True),
    ],
)
def test_memory_is_shared_unless_sockets_or_secrets_are_asked_for(options: dict[str, Any], shares: bool) -> None:
    assert shares_memory(ExchangeConfig(**options)) is shares
