"""Ledger of the shares that a peer has given to its neighbors, for push-sum.

A payload counts once, wherever processes stop: the sender takes back what was not acknowledged, and sets that right as
soon as the edge is up again, when the neighbor has said which round's payload was its last (`Algorithm.edge_up`):

- taken back, but received after all (the acknowledgment got lost), or about to be sent once more, as after a restart
  from the checkpoint of an earlier round: the neighbor owes it, and its next payload is as much smaller;
- acknowledged, but lost with a process that had not saved it: it is owed to the neighbor, in its next payload;
- received from an earlier incarnation of this peer, which has died and repeats the round: given, without being sent.

A payload of round t is acknowledged only when its receiver has saved round t − 2, since it grants credit one round
ahead. So of each neighbor the share that it acknowledged last is kept, and one of the round before that. On a schedule
of graphs an edge may be absent for many rounds, in which its receiver may stay behind: its share is kept until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2pfl.algorithms.base import Saved

UNSAVED_ROUNDS = 2  # whose shares a receiver may still lose, up to the last that it has acknowledged
KEPT_SHARES = UNSAVED_ROUNDS + 1  # of an account, with the current round's


@dataclass
class Share:
    """Payload that was given to a neighbor.

    vector, weight: V and its w, of which the neighbor adds the part p (`part`) to its own. sent: it may have left.
    is_back: its sender has taken it back.
    """

    round: int
    vector: Tensor
    weight: float
    part: float
    sent: bool = True
    is_back: bool = False


@dataclass
class Account:
    """A neighbor's account.

    shares: of the last rounds, in order. received: last round whose payload it had when the edge came up. served_from:
    first round whose payload goes to it since then. owed, owed_weight: mass that its next payload holds beside the
    round's share, p V and p w, since the part p may be another one in that round; negative where the neighbor owes it.
    """

    shares: list[Share] = field(default_factory=list)
    is_away: bool = False
    received: int = 0
    served_from: int = 0
    owed: Tensor | None = None
    owed_weight: float = 0.0

    def owe(self, share: Share, sign: float) -> None:
        """Owe a share to the neighbor (sign 1), or the neighbor owes it (−1)."""
        # A new vector: a checkpoint may be reading the old one.
        wide = torch.promote_types(share.vector.dtype, torch.float32)
        vector = share.vector.to(wide, copy=True).mul_(sign * share.part)
        self.owed = vector if self.owed is None else vector.add_(self.owed)
        self.owed_weight += sign * share.part * share.weight


class ShareLedger:
    """Accounts of all neighbors."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}

    def account(self, neighbor: int) -> Account:
        """Account of a neighbor."""
        return self.accounts.setdefault(neighbor, Account())

    def begin(self) -> None:
        """Forget shares that their receivers have saved.

        All that have not been taken back are acknowledged, as nothing of the rounds before is being sent.
        """
        for account in self.accounts.values():
            taken = [share.round for share in account.shares if not share.is_back]
            if taken and not account.is_away:
                account.shares = [share for share in account.shares if share.round > taken[-1] - UNSAVED_ROUNDS]

    def pay(self, neighbor: int, share: Share) -> tuple[Tensor | None, float]:
        """Debt to a neighbor, to be added to a share's vector and weight; None: nothing.

        Where the neighbor owes more than the share, it is taken away in parts: no payload has a weight below 0.
        """
        account = self.account(neighbor)
        owed, owed_weight, weight = account.owed, account.owed_weight, share.part * share.weight
        if owed is None:
            return None, 0.0
        if weight + owed_weight >= 0.0:
            account.owed, account.owed_weight = None, 0.0
            return owed / share.part, owed_weight / share.part
        now = -weight / owed_weight
        account.owed, account.owed_weight = owed * (1.0 - now), owed_weight + weight
        return owed * (now / share.part), -share.weight

    def give(self, neighbor: int, share: Share) -> None:
        """Note a round's payload."""
        account = self.account(neighbor)
        share.sent = not account.is_away and share.round >= account.served_from
        account.shares.append(share)

    def undelivered(self, neighbor: int, round: int) -> Share | None:
        """Take back the last payload, of this round.

        None where the neighbor has it, from an earlier incarnation too, or where it has been settled.
        """
        account = self.account(neighbor)
        if not account.shares or account.shares[-1].round != round or round <= account.received:
            return None
        share = account.shares[-1]
        share.is_back = True
        if not share.sent or len(account.shares) > KEPT_SHARES:
            account.shares.pop()
        return share

    def edge_up(self, neighbor: int, received: int, served_from: int) -> None:
        """Settle the account of a neighbor by what it has; see `Algorithm.edge_up`."""
        account = self.account(neighbor)
        account.is_away, account.received, account.served_from = False, received, served_from
        shares, account.shares = account.shares, []
        for share in shares:
            share.sent = share.sent or share.round >= served_from
            if share.is_back and (share.round <= received or share.round >= served_from):
                account.owe(share, -1.0)
                share.is_back = False
            elif received < share.round < served_from:
                if not share.is_back:
                    account.owe(share, 1.0)
                continue
            account.shares.append(share)

    @property
    def vectors(self) -> Iterator[Tensor]:
        """Vectors of all shares."""
        return (share.vector for account in self.accounts.values() for share in account.shares)

    def state_dict(self) -> Saved:
        """All accounts; a vector of several neighbors is saved once."""
        saved: dict[str, Tensor | float] = {}
        places: dict[int, int] = {}
        for vector in self.vectors:
            if id(vector) not in places:
                places[id(vector)] = len(places)
                saved[f"share.{places[id(vector)]}"] = vector
        for neighbor, account in self.accounts.items():
            if account.owed is not None:
                saved[f"owed.{neighbor}"] = account.owed
                saved[f"owed_weight.{neighbor}"] = account.owed_weight
            for share in account.shares:
                facts = {"vector": places[id(share.vector)], "weight": share.weight, "part": share.part}
                facts |= {"sent": share.sent, "is_back": share.is_back}
                saved |= {f"{name}.{neighbor}.{share.round}": float(value) for name, value in facts.items()}
        return saved

    def load_state_dict(self, saved: Saved) -> None:
        """Continue with saved accounts."""
        for name, value in saved.items():
            kind, _, place = name.partition(".")
            if kind == "owed" and isinstance(value, Tensor):
                self.account(int(place)).owed = value.clone()
                self.account(int(place)).owed_weight = float(saved[f"owed_weight.{place}"])
            elif kind == "vector":
                neighbor, round = map(int, place.split("."))
                vector = saved[f"share.{int(value)}"]
                assert isinstance(vector, Tensor)
                facts = {fact: float(saved[f"{fact}.{place}"]) for fact in ("weight", "part", "sent", "is_back")}
                share = Share(
                    round, vector, facts["weight"], facts["part"], bool(facts["sent"]), bool(facts["is_back"])
                )
                self.account(neighbor).shares.append(share)
        for account in self.accounts.values():
            account.shares.sort(key=lambda share: share.round)
