"""The report of a compression: one HTML file that needs nothing else, made from what `record.json` holds."""

from neuromeld.report.page import render_report, save_report

__all__ = ["render_report", "save_report"]
