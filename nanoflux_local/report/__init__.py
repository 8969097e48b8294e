"""Reports: one self-contained HTML file for a run or an experiment."""
