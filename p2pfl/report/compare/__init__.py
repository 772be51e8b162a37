"""Comparison of several runs: grouping by seed, matching, table, plots and page."""

from p2pfl.report.compare.grid_view import terminal_grid
from p2pfl.report.compare.group import Entry, load_entries
from p2pfl.report.compare.matching import Comparison, Mismatch, find_mismatches, notes
from p2pfl.report.compare.page import read_comparison, write_comparison
from p2pfl.report.compare.table import terminal_table

__all__ = [
    "Comparison",
    "Entry",
    "Mismatch",
    "find_mismatches",
    "load_entries",
    "notes",
    "read_comparison",
    "terminal_grid",
    "terminal_table",
    "write_comparison",
]
