"""Several finished runs side by side: grouped by seeds, checked for a fair match, as table, plots and one page."""

from p2pfl.report.comparison.compared import Comparison
from p2pfl.report.comparison.entries import Entry, load_entries
from p2pfl.report.comparison.files import compared_runs, write_comparison
from p2pfl.report.comparison.matching import Mismatch, find_mismatches, notes
from p2pfl.report.comparison.terminal import terminal_table

__all__ = [
    "Comparison",
    "Entry",
    "Mismatch",
    "compared_runs",
    "find_mismatches",
    "load_entries",
    "notes",
    "terminal_table",
    "write_comparison",
]
