"""Sections of the page: a function of the comparison that returns a section or None."""
