"""The report of a compression: one HTML file that needs nothing else, made from what `record.json` holds."""

from neuromeld.report.page import load_record, render_report, save_report

__all__ = ["load_record", "render_report", "save_report"]
