"""Partitions that the user gives: a file, a function, or each peer's own data."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl import registry
from p2pfl.data.partitions.request import Indices, Request, Split, split_of
from p2pfl.errors import ConfigError, one_line, unreadable
from p2pfl.util.files import read_text
from p2pfl.util.text import shortened, some

_MOST_BYTES = 1 << 30  # of a file: some tens of millions of samples
_HEADER = ["sample", "peer"]
_MOST_DIGITS = 18  # of a sample's number, which NumPy keeps in 64 bits
_WIDTH = 60  # characters of a value from a file in a message
_EXAMPLE = 'must be an object of lists, such as {"0": [0, 3, 5], "1": [1, 2]}'
_ROW = "must be a sample's number and a peer's label, such as 17,3"
_MARKS = {";": "semicolon", "\t": "tab", "|": "vertical bar"}
Assignment = Mapping[str, Sequence[int]]


def from_file(request: Request) -> Split:
    """An assignment of samples to peers from a file: JSON or CSV, by its ending.

    JSON: {"PEER": [SAMPLE, …], …}. CSV: the heading sample,peer and one row for each sample. PEER is the label of a
    node or client, SAMPLE the number of a training sample, counted from 0. Nobody gets a sample twice, every peer has
    one at least, and samples that are not named are not used.
    """
    assignment = read_assignment(request.argument)
    known = {name: np.array(samples, dtype=np.int64) for name, samples in assignment.items()}
    strangers = [name for name in known if name not in request.names]
    if strangers:
        listed = some(map(_said, strangers), 5)
        raise request.refusal(f"peer {listed} is not in the topology; it has {_peers(request)}")
    without = [name for name in request.names if not len(known.get(name, ()))]
    if without:
        raise request.refusal(f"no sample for peer {some(without, 5)}; give every peer one at least")
    return _checked(request, [known[name] for name in request.names], request.names)


def pooled_file(request: Request) -> Split:
    """All samples that a file gives to anybody, as one shard."""
    assignment = read_assignment(request.argument)
    named = [np.array(samples, dtype=np.int64) for samples in assignment.values()]
    if not any(len(samples) for samples in named):
        raise request.refusal("no sample for anybody; give every peer one at least")
    checked = _checked(request, named, [some([shortened(name, _WIDTH)]) for name in assignment])
    return split_of([np.concatenate(checked.shards)], checked.notes)


def read_assignment(path: str) -> Assignment:
    """Samples of each peer from a file, as `from_file` describes it.

    Raises ConfigError naming the file and the place.
    """
    where = f"--partition file:{path}"
    try:
        text = read_text(Path(path).expanduser(), _MOST_BYTES).removeprefix("\ufeff")  # as Excel writes it
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        raise ConfigError(f"--partition file:{unreadable(Path(path), error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not UTF-8 text; save it as UTF-8") from None
    ending = Path(path).suffix.lower()
    if ending not in (".json", ".csv"):
        raise ConfigError(f"{where}: name it .json or .csv, as it is written")
    if not text.strip():
        content = "an object of lists" if ending == ".json" else f"the heading {','.join(_HEADER)} and a row a sample"
        raise ConfigError(f"{where}: the file is empty; it must have {content}")
    if "\0" in text:
        raise ConfigError(f"{where}: has null characters, as UTF-16 text has; save it as UTF-8")
    return _from_json(where, text) if ending == ".json" else _from_csv(where, text)


def _from_json(where: str, text: str) -> Assignment:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            raise ConfigError(f"{where}: peer {_said(twice)} stands there twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once, parse_int=_parsed)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(f"{where}: {place}: not JSON ({error.msg}); {_EXAMPLE}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; {_EXAMPLE}") from None
    if not isinstance(found, dict) or not all(isinstance(samples, list) for samples in found.values()):
        raise ConfigError(f"{where}: {_EXAMPLE}")
    for name, samples in found.items():
        odd = next((one for one in samples if not _is_number(one)), None)
        if odd is not None:
            raise ConfigError(f"{where}: peer {_said(name)}: {_said(odd)} is no number of a sample")
    return found


def _from_csv(where: str, text: str) -> Assignment:
    reader = csv.reader(io.StringIO(text, newline=None))  # with the line ends of any system
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error:  # a cell that is too long, as after a quotation mark that is never closed
        problem = f"a cell has more than {csv.field_size_limit():,} characters; {_ROW}"
        raise ConfigError(f"{where}: line {reader.line_num}: {problem}") from None
    heading = [cell.strip().lower() for cell in rows[0][1]]
    if heading != _HEADER:
        between = next((name for mark, name in _MARKS.items() if mark in "".join(heading)), None)
        told = "" if between is None else f", separated by a comma, not a {between}, as all rows"
        raise ConfigError(f"{where}: line 1: must be the heading {','.join(_HEADER)}{told}")
    found: dict[str, list[int]] = {}
    for line, row in rows[1:]:
        if not row:
            continue
        number = row[0].strip()
        if len(row) != 2 or not (number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
            raise ConfigError(f"{where}: line {line}: {_ROW}")
        found.setdefault(row[1].strip(), []).append(int(number))
    return found


def _parsed(digits: str) -> int | str:
    """Whole number of JSON; the text itself of one that is too long for a sample."""
    return int(digits) if len(digits) <= _MOST_DIGITS + 1 else digits


def _said(value: object) -> str:
    """Value of a file in a message, whatever its length."""
    return shortened(repr(value), _WIDTH)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _checked(request: Request, shards: list[Indices], names: Sequence[str]) -> Split:
    """Split of known, disjoint samples; notes how many are not used."""
    total = len(request.labels)
    for name, shard in zip(names, shards, strict=True):
        foreign = shard[(shard < 0) | (shard >= total)]
        if len(foreign):
            raise request.refusal(f"peer {name}: there is no sample {foreign[0]}; there are {total:,}, counted from 0")
    holders = np.full(total, -1)
    for number, shard in enumerate(shards):
        unique, counts = np.unique(shard, return_counts=True)
        if len(unique) < len(shard):
            raise request.refusal(f"peer {names[number]} has sample {unique[counts > 1][0]} twice")
        taken = unique[holders[unique] >= 0]
        if len(taken):
            other = names[int(holders[taken[0]])]
            raise request.refusal(f"sample {taken[0]} is given to {other} and to {names[number]}")
        holders[unique] = number
    unused = int((holders < 0).sum())
    note = f"--partition {request.spec}: {unused:,} of {total:,} training samples are not used"
    return split_of(shards, (note,) if unused else ())


def _peers(request: Request) -> str:
    return some(request.names, 8)


Function = Callable[[np.ndarray, int, int], Iterable[Iterable[int]]]
"""A user's partition: labels (N,), number of peers and seed in; for each peer the numbers of its samples out."""


def from_function(request: Request) -> Split:
    """Shards of the user's module:function(labels, peers, seed).

    Every process calls it, so it must give the same for the same arguments. Its shards are disjoint, cover all samples
    and are not empty.
    """
    function: Function = registry.load(request.spec, "--partition")
    try:
        found = [np.asarray(list(shard)) for shard in function(request.labels.copy(), request.peers, request.seed)]
    except (Exception, SystemExit) as error:
        raise request.refusal(f"the function raised {one_line(error)}") from error
    if len(found) != request.peers:
        raise request.refusal(f"returned {_counted(len(found), 'shard')} for {_counted(request.peers, 'peer')}")
    for name, shard in zip(request.names, found, strict=True):
        if shard.ndim != 1 or not len(shard) or shard.dtype.kind not in "iu":
            raise request.refusal(f"returned for peer {name} no list of numbers of samples, or an empty one")
        if shard.dtype.kind == "u" and shard.max() > np.iinfo(np.int64).max:  # which would become negative
            total = len(request.labels)
            raise request.refusal(f"peer {name}: there is no sample {shard.max()}; there are {total:,}, counted from 0")
    split = _checked(request, [shard.astype(np.int64) for shard in found], request.names)
    if split.notes:
        raise request.refusal(f"the shards must cover all {len(request.labels):,} samples; {_missing(split, request)}")
    return split


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _missing(split: Split, request: Request) -> str:
    missing = np.setdiff1d(np.arange(len(request.labels)), np.concatenate(split.shards))
    return (
        f"sample {missing[0]} and {len(missing) - 1:,} more are missing"
        if len(missing) > 1
        else (f"sample {missing[0]} is missing")
    )


def own(request: Request) -> Split:
    """Data that are the peers' own: the data set says whose each sample is.

    An imagefolder:DIR does so by its folders DIR/PEER/train/CLASS, a user's function by `train_peers`. Samples of
    owners that are not in the topology are not used.
    """
    if request.owners is None:
        raise request.refusal(
            "this data set does not say whose its samples are; use --dataset imagefolder:DIR with folders "
            "DIR/PEER/train/CLASS, or a function that returns train_peers"
        )
    places = {name: place for place, name in enumerate(request.owner_names)}
    shards = [np.flatnonzero(request.owners == places.get(name, -1)) for name in request.names]
    without = [name for name, shard in zip(request.names, shards, strict=True) if not len(shard)]
    if without:
        there = some(request.owner_names, 8)
        raise request.refusal(f"peer {some(without, 5)} has no data; there are data of {there}")
    strangers = [name for name in request.owner_names if name not in request.names]
    unused = len(request.labels) - sum(map(len, shards))
    note = f"--partition own: the data of {some(strangers, 5)} are not used ({unused:,} samples): no peer of that label"
    return split_of(shards, (note,) if strangers else ())
