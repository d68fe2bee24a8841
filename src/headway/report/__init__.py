"""Results on disk to statistics, tables, plots and one self-contained HTML page."""
