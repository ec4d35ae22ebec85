"""Data simulated from a model: by its prior, or given latents; and a model of two data sets."""
