"""What a run shows while it goes on: a live table on a terminal, plain lines elsewhere."""

from p2pfl.ui.state import Plan
from p2pfl.ui.terminal import Display, make_display

__all__ = ["Display", "Plan", "make_display"]
