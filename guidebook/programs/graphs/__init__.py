"""A Pyro computation recorded as a graph of tensor operations, interpreted or compiled."""
