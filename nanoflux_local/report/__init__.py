"""Reports: one HTML file that a person wants to read, with nothing to fetch."""
