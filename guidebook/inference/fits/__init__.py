"""A fit's life: opened, run, held, drawn from, saved and loaded."""
