"""Families q(z | x): one network gives the posterior of every row."""
