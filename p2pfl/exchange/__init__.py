"""What peers, clients and coordinators share: events and actions, leave to send, acknowledgements, refusals."""

from p2pfl.exchange.events import (
    Action,
    Discard,
    Event,
    Fail,
    Finish,
    Flushed,
    Lost,
    Note,
    Plan,
    Received,
    Reconnected,
    Recorded,
    Refused,
    RoundDone,
    Send,
    Started,
    Tick,
    Timeouts,
    Train,
    Trained,
)
from p2pfl.exchange.greeting import Greeting, MismatchError
from p2pfl.exchange.inbox import WINDOW, Inbox
from p2pfl.exchange.logic import PATIENCE, Logic, remind_after
from p2pfl.exchange.outbox import Outbox
from p2pfl.exchange.session import Session

__all__ = [
    "PATIENCE",
    "WINDOW",
    "Action",
    "Discard",
    "Event",
    "Fail",
    "Finish",
    "Flushed",
    "Greeting",
    "Inbox",
    "Logic",
    "Lost",
    "MismatchError",
    "Note",
    "Outbox",
    "Plan",
    "Received",
    "Reconnected",
    "Recorded",
    "Refused",
    "RoundDone",
    "Send",
    "Session",
    "Started",
    "Tick",
    "Timeouts",
    "Train",
    "Trained",
    "remind_after",
]
