"""Recorded arrays -> tables, summary, report and traces."""
