"""Numbers of papers, obtained here: `python -m benchmarks.headlines`."""
