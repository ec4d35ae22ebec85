"""Correlations and log Z of Boltzmann machines."""
