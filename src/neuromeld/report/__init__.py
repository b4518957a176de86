"""The report of a compression: one HTML file that needs nothing else, made from what `record.json` holds."""

from neuromeld.report.frontier import render_frontier
from neuromeld.report.maps import draw_maps, render_maps
from neuromeld.report.page import checked_record, load_record, render_report, save_report

__all__ = [
    "checked_record",
    "draw_maps",
    "load_record",
    "render_frontier",
    "render_maps",
    "render_report",
    "save_report",
]
