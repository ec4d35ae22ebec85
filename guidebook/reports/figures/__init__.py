"""Figures of any comparison: a matplotlib figure a function."""
