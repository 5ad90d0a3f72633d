"""The report: HTML pages that open offline. The door to Jinja and to Bokeh."""

from vqpipe.report.facts import ReportFacts
from vqpipe.report.page import render_report
from vqpipe.report.sweep_page import render_sweep

__all__ = ["ReportFacts", "render_report", "render_sweep"]
