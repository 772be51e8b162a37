"""Tables of fault scripts."""

from __future__ import annotations


def fault(**fields: object) -> str:
    """One table of a script; strings and lists are written alike in Python and TOML."""
    return "[[fault]]\n" + "\n".join(f"{name} = {value!r}" for name, value in fields.items()) + "\n"


DROP = {"kind": "drop", "edge": ["0", "1"], "rounds": [5, 8], "probability": 0.1}
CUT = {"kind": "partition", "rounds": [5, 8], "parts": [["0", "1"], ["2", "3"]]}
