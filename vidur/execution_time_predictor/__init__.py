"""Predict the time of an iteration: predictors and the tables they produce."""

from __future__ import annotations

from vidur.execution_time_predictor.build import build_tables
from vidur.execution_time_predictor.iteration import iteration_ms
from vidur.execution_time_predictor.tables import ExecutionTimeTables, TableBounds

__all__ = ["ExecutionTimeTables", "TableBounds", "build_tables", "iteration_ms"]
