"""A model whose module makes one process of a run an attacker, if P2PFL_TEST_ATTACK=INDEX:ATTACK:SCALE says so.

Every worker imports the module of a user's model before it builds its logic, and so it works in real processes.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from user_models import Linear

from p2pfl.algorithms.attacks import Attacking, build_attack, relabeling, tampering
from p2pfl.model.networks import build_model
from p2pfl.protocol.client import Client
from p2pfl.protocol.peer import Peer
from p2pfl.training import Trainer

VARIABLE = "P2PFL_TEST_ATTACK"
CLASSES = 10


def linear(num_classes: int) -> nn.Module:
    return Linear(num_classes)


def vgg(num_classes: int) -> nn.Module:
    return build_model("vgg11", num_classes=num_classes, batch_norm=True, width=0.125)


def _attack(index: int) -> tuple[str, float | None] | None:
    """What this process attacks with, if it is an attacker."""
    who, _, how = os.environ.get(VARIABLE, "").partition(":")
    name, _, scale = how.partition(":")
    return (name, float(scale) if scale else None) if who == str(index) else None


def _always(round: int) -> bool:
    return True


_peer, _client, _trainer = Peer.__init__, Client.__init__, Trainer.__init__


def _hostile_peer(
    self: Peer, context: Any, schedule: Any, x: Any, training: Any, consensus: Any, **options: Any
) -> None:
    if (found := _attack(context.me)) is not None and (attack := build_attack(*found)) is not None:
        training, consensus = Attacking(training, attack, _always), Attacking(consensus, attack, _always)
    _peer(self, context, schedule, x, training, consensus, **options)


def _hostile_client(self: Client, context: Any, x: Any, codec: Any, tamper: Any = None) -> None:
    found = _attack(context.me)
    attack = None if found is None else build_attack(*found)
    _client(self, context, x, codec, tamper if attack is None else tampering(attack, _always))


def _hostile_trainer(
    self: Trainer, config: Any, dataset: Any, indices: Any, device: Any, peer: int, **options: Any
) -> None:
    _trainer(self, config, dataset, indices, device, peer, **options)
    if (found := _attack(peer)) is not None and found[0] == "label-flip":
        self.relabel = relabeling(CLASSES, _always)


Peer.__init__ = _hostile_peer  # type: ignore[method-assign]
Client.__init__ = _hostile_client  # type: ignore[method-assign]
Trainer.__init__ = _hostile_trainer  # type: ignore[assignment, method-assign]
