"""What a run shows while it goes on: a live table on a terminal, plain lines elsewhere."""

from p2pfl.display.screen import Display, make_display
from p2pfl.display.state import Plan

__all__ = ["Display", "Plan", "make_display"]
