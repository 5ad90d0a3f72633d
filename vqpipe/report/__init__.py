"""The report: one HTML page that opens offline. The door to Jinja and to Bokeh."""

from vqpipe.report.facts import ReportFacts
from vqpipe.report.page import render_report

__all__ = ["ReportFacts", "render_report"]
