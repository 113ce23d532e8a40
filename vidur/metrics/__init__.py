"""Turn recorded arrays into tables, a summary, a report and traces."""
