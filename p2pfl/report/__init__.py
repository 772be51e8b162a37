"""What a run came to: its summary, its plots and one page to read."""

from p2pfl.report.output import check_drawing
from p2pfl.report.page import write_report
from p2pfl.report.picture import draw_topology
from p2pfl.report.run import Run, load_run
from p2pfl.report.summary import FIELDS, complete_summary, known_facts, read_summary, summarize, write_summary

__all__ = [
    "FIELDS",
    "Run",
    "check_drawing",
    "complete_summary",
    "draw_topology",
    "known_facts",
    "load_run",
    "read_summary",
    "summarize",
    "write_report",
    "write_summary",
]
