"""A Pyro program as a value: its sites, its recorded graph, its log density, its rows."""
