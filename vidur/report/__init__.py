"""The kit of every page of the project: sections of charts and tables in one HTML file that works offline.

page = Page("Simulation of 4 replicas", facts=[("Model", "Llama-3-8B")])
page.add_section("Latency", Table(["", "p50 (ms)"], [["TTFT", "212"]]), Chart("TTFT", "seconds", [trace], axes))
page.write(Path("report.html"))
"""

from vidur.report.chart import Chart
from vidur.report.markup import Markup
from vidur.report.page import Page
from vidur.report.table import Table

__all__ = ["Chart", "Markup", "Page", "Table"]
