"""What a usable posterior says of its model: rows predicted by all others, and what prior and data weigh."""
