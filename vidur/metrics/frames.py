"""Make the tables as pandas frames for the Python API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidur.engine.recording import Recording
from vidur.metrics.batch_runs import whole_batches
from vidur.metrics.columns import batch_columns, replica_columns, request_columns

if TYPE_CHECKING:
    import pandas as pd


def request_frame(recording: Recording) -> pd.DataFrame:
    """Return a row for each request, the columns of request_metrics.csv."""
    import pandas as pd

    columns = request_columns(recording)
    columns["status"] = columns["status"].astype("U")
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def batch_frame(recording: Recording) -> pd.DataFrame:
    """Return a row for each batch, the columns of batch_metrics.csv. Runs are expanded, so it can be long."""
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame(next(batch_columns(whole_batches(recording))))
    return frame


def replica_frame(recording: Recording) -> pd.DataFrame:
    """Return a row for each replica."""
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame(replica_columns(recording, whole_batches(recording)))
    return frame
