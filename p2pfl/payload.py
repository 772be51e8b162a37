"""Payloads: the vectors and scalars that travel, and the number formats in which they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Codec = Literal["", "fp32", "bf16"]
ITEM_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Payload:
    """What one peer tells another in one round: named vectors, and scalars such as push-sum's weight.

    Each vector is given as consecutive one-dimensional pieces, float32 or bfloat16: one piece at the sender, one a
    chunk at the receiver, which never puts them together.
    """

    vectors: Mapping[str, Sequence[Tensor]]
    scalars: Mapping[str, float] = field(default_factory=dict)
