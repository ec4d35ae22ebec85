"""Amortised posteriors, row by row."""
