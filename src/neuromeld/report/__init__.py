"""The report of a compression: one HTML file that needs nothing else, made from what `record.json` holds."""

from neuromeld.report.maps import draw_maps, render_maps
from neuromeld.report.page import load_drawable, render_report, save_report

__all__ = ["draw_maps", "load_drawable", "render_maps", "render_report", "save_report"]
