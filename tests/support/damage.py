"""Damages of files, drawn from a seed.

Cuts, overwritten bytes, values of other kinds, structures without end.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import re
import tomllib
import warnings
from collections.abc import Callable
from typing import Any

import tomli_w

Damage = Callable[[bytes, random.Random], bytes]

# What a number, or anything else, may have become.
ODD_TEXTS = (
    "-1", "0", "1e300", "-1e300", "nan", "inf", "1e-320", "1" + "0" * 30, "9" * 5000, "9223372036854775808", "0.5",
    "null", "true", '"x"', '"9"', "[]", "{}", "[1]", "x", "", "\\u202e", "1979-05-27",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2**62, 2**63, 10**30, -(10**30), 0.5, 1e300, -1e300, 1e-320, float("inf"), float("nan"), True, "", "x",
    "0", "../../x", "/", "a\u202eb", "x" * 5000, "\x1b[31m", "\0", [], [1], ["x", "x"], [[]], {}, {"x": 1}, [[["x"]]],
)  # fmt: skip


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 100))) + data[at:]


def remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 3, 40)) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(line * rng.choice((1, 1, 1, 2, 0)) for line in lines)


def nonsense(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"\0" * 64, rng.randbytes(200), data.decode("utf-8", "replace").encode("utf-16")))


def endless(data: bytes, rng: random.Random) -> bytes:
    """Nested deeper than a parser by recursive descent can follow."""
    deep = rng.choice((b"[", b'{"a":', b"x = [", b"<graph>", b"graph [", b"a b {'w': [")) + b"[" * 3000
    deep += rng.choice((b"", b"]" * 3000))
    return rng.choice((deep, data + b"\nlr = " + b"[" * 5000 + b"]" * 5000 + b"\n"))


def other_token(data: bytes, rng: random.Random) -> bytes:
    """A number or a quoted text of the file becomes something else."""
    found = list(re.finditer(rb'-?\d+\.?\d*(?:e-?\d+)?|"[^"\n]*"', data))
    if not found:
        return data
    chosen = rng.choice(found)
    new = rng.choice(ODD_TEXTS).encode()
    if chosen[0].startswith(b'"') and rng.random() < 0.5:
        new = b'"' + new.replace(b'"', b"") + b'"'
    return data[: chosen.start()] + new + data[chosen.end() :]


def other_value(data: bytes, rng: random.Random) -> bytes:
    """Remove or replace a value in a TOML or JSON file, or in one of its lines."""
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        return _write_toml(_changed(tomllib.loads(data.decode()), rng))
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        return json.dumps(_changed(json.loads(data), rng)).encode()
    lines = data.split(b"\n")
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        number = rng.randrange(len(lines))
        lines[number] = json.dumps(_changed(json.loads(lines[number]), rng)).encode()
    return b"\n".join(lines)


def _write_toml(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise ValueError("no TOML")
    return tomli_w.dumps(value).encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one place of it changed, however deep."""
    new = copy.deepcopy(value)
    at = new
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            return rng.choice(ODD_VALUES)
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.8:
            at = at[key]
            continue
        fate = rng.random()
        if fate < 0.2:
            del at[key]
        elif fate < 0.3 and isinstance(at, dict):
            at[str(rng.choice(ODD_VALUES))[:40]] = at.pop(key)
        else:
            at[key] = rng.choice(ODD_VALUES)
        return new


ALL: tuple[Damage, ...] = (cut, overwrite, insert, remove, repeat, nonsense, endless, *[other_token, other_value] * 3)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One or a few damages of any kind."""
    with warnings.catch_warnings(action="ignore"):
        for _ in range(rng.choice((1, 1, 1, 2))):
            data = rng.choice(ALL)(data, rng)
    return data
