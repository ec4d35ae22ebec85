"""One value of a user's data: the numbers in it, the labels on it, and what is no array at all."""
