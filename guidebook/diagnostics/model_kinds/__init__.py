"""Numbers peculiar to one kind of model."""
