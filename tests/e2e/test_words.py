"""Check of words: banned words and long first lines are found, others pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.paths import ROOT
from tests.support.words import CLEAN, EXCLUDED, main, problems_of_docstrings, problems_of_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a line\nThe run goes on.", [(2, "goes on")]),
        ("# It does not wait any\n    # more.", [(1, "any more")]),
        ("Goes\n    on without it.", [(1, "goes on")]),
        ("hood_of(x), Hoods, neighborhood", [(1, "hood"), (1, "hoods")]),
        ("def go_on(): ...", [(1, "go_on")]),
        ("more than any; it goes only on; livelihood; bearing", []),
    ],
)
def test_words_are_found_in_prose_and_in_names(text: str, expected: list[tuple[int, str]]) -> None:
    assert [(line, word) for line, word, _ in problems_of_words(text)] == expected


@pytest.mark.parametrize(
    ("docstring", "lines"),
    [("Number of peers.", []), ("What a peer is.", [2]), ("A" * 81, [2]), ("Whatever the order, all is well.", [2])],
)
def test_docstrings_are_read_by_their_first_line(docstring: str, lines: list[int]) -> None:
    text = f'def f() -> None:\n    """{docstring}\n\n    What follows is free.\n    """\n'
    assert [line for line, _ in problems_of_docstrings(text)] == lines


def test_problems_are_printed_with_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.md").write_text("good\nIt goes on.\n")
    (tmp_path / "a.bin").write_bytes(b"goes on \xff")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'a.md'}:2: 'goes on': say 'continue'\nproblems: 1\n"


def test_paths_of_the_check_exist() -> None:
    assert [name for name in (*CLEAN, *EXCLUDED) if not (ROOT / name).exists()] == []
