"""Display of a running launch: a live table on a terminal, plain lines elsewhere."""

from p2pfl.ui.overall import OverallProgress
from p2pfl.ui.state import RunInfo
from p2pfl.ui.terminal import Display, make_display

__all__ = ["Display", "OverallProgress", "RunInfo", "make_display"]
