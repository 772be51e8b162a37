"""Report of a run: summary, warnings, plots and one HTML page."""

from p2pfl.report.fields import FIELDS
from p2pfl.report.load import RecordedRun, load_run
from p2pfl.report.output import check_drawing
from p2pfl.report.page import write_report
from p2pfl.report.schedule_plot import draw_schedule
from p2pfl.report.summary import complete_summary, known_facts, read_summary, summarize, write_summary
from p2pfl.report.topology_plot import draw_topology

__all__ = [
    "FIELDS",
    "RecordedRun",
    "check_drawing",
    "complete_summary",
    "draw_schedule",
    "draw_topology",
    "known_facts",
    "load_run",
    "read_summary",
    "summarize",
    "write_report",
    "write_summary",
]
