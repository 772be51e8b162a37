from __future__ import annotations

import pytest

from p2pfl.util.units import bytes_text, clock_text, counted, seconds_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (999_600, "1 MB"), (12_345_678, "12.3 MB"), (5e15, "5,000 TB")],
)
def test_bytes_have_decimal_units(count: float, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (151, "2:31"), (3751, "1:02:31")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.214, "4.21 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_seconds_text(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_counts_have_a_singular_and_separators() -> None:
    assert [counted(count, "round") for count in (0, 1, 2, 1500)] == ["0 rounds", "1 round", "2 rounds", "1,500 rounds"]
