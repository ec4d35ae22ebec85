"""How far q is from p: numbers, then a verdict."""
