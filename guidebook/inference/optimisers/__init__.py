"""How a gradient becomes a move: rules, one family a file, and what is read of Pyro's optimisers.

A new rule is a `Rule` and a line of `given.RULES`.
"""
