"""Exponential-family factors, with the updates that conjugacy gives."""
