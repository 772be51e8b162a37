"""Checks of what an algorithm hands over to its peer.

A slip is named where it is made: neighbors would refuse such a vector without being able to say more, and wait for a
right one until a timeout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Saved
from p2pfl.errors import ConfigError
from p2pfl.payload import Encoding, LocalTraining, Payload
from p2pfl.topology import Neighborhood


def check_payloads(
    algorithm: Algorithm[Any], payloads: Mapping[int, Payload], neighborhood: Neighborhood, size: int
) -> None:
    """Check this round's payloads, one for each out-neighbor.

    `size`: elements of a vector. Raises ConfigError for one that cannot travel.
    """
    if payloads.keys() != neighborhood.outgoing.keys():
        given, wanted = sorted(payloads), sorted(neighborhood.outgoing)
        raise _slip(algorithm, f"outgoing gives payloads for the peers {given}; its out-neighbors are {wanted}")
    encodings, checked = algorithm.encodings, set()
    for payload in payloads.values():
        if id(payload) in checked:  # most send the same to all
            continue
        checked.add(id(payload))
        if payload.vectors.keys() != encodings.keys():
            names = sorted(payload.vectors), sorted(encodings)
            raise _slip(algorithm, f"a payload has the vectors {names[0]}, and `encodings` names {names[1]}")
        for name, pieces in payload.vectors.items():
            _check_vector(algorithm, name, pieces, encodings[name], size)
        for name, number in payload.scalars.items():
            if not isinstance(number, int | float) or not torch.tensor(float(number)).isfinite():
                raise _slip(algorithm, f"the scalar {name!r} of a payload is {number!r}, not a finite number")


def check_mix(algorithm: Algorithm[Any], mix: object, size: int) -> None:
    """Check the result of `finish`.

    Raises ConfigError unless it can take the place of x.
    """
    if not _is_vector(mix, torch.float32, size):
        raise _slip(algorithm, f"finish returns {_described(mix)} in place of a float32 vector of {size:,} numbers")


def check_request(algorithm: Algorithm[Any], request: object, size: int) -> None:
    """Check a request; raises ConfigError unless its vectors are as long as x."""
    if not isinstance(request, LocalTraining):
        raise _slip(algorithm, f"request returns {_described(request)} in place of a LocalTraining")
    for field in fields(request):
        value = getattr(request, field.name)
        if isinstance(value, Tensor) and not _is_vector(value, torch.float32, size):
            found = _described(value)
            raise _slip(algorithm, f"{field.name} of a request is {found}, not a float32 vector of {size:,} numbers")


def check_saved(algorithm: Algorithm[Any], saved: Saved) -> None:
    """Check a state. Raises ConfigError unless it can be saved."""
    for name, value in saved.items():
        if not isinstance(value, Tensor | int | float):
            raise _slip(algorithm, f"state_dict has {name!r}: {_described(value)}, neither a tensor nor a number")


def _check_vector(algorithm: Algorithm[Any], name: str, pieces: object, encoding: Encoding, size: int) -> None:
    vectors = list(pieces) if isinstance(pieces, list | tuple) else []
    if len(vectors) != 1:
        raise _slip(algorithm, f"the vector {name!r} of a payload is not given as one piece, [vector]")
    lengths = [size] if encoding.lengths is None else encoding.lengths(size)
    if not any(_is_vector(vectors[0], encoding.dtype, length) for length in lengths):
        wanted = " or ".join(f"{length:,}" for length in lengths)
        raise _slip(
            algorithm,
            f"the vector {name!r} of a payload is {_described(vectors[0])}; its encoding {encoding.name} needs "
            f"{encoding.torch_name} and {wanted} numbers",
        )


def _is_vector(value: object, dtype: torch.dtype, length: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == dtype
        and value.shape == (length,)
        and value.is_contiguous()
        and value.device.type == "cpu"
    )


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = str(value.dtype).removeprefix("torch.")
    apart = "" if value.is_contiguous() else ", not contiguous"
    return f"a {kind} tensor of shape {tuple(value.shape)} on {value.device}{apart}"


def _slip(algorithm: Algorithm[Any], what: str) -> ConfigError:
    found = type(algorithm)
    return ConfigError(f"--algorithm {found.__module__}:{found.__qualname__}: {what}")
