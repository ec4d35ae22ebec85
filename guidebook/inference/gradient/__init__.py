"""What svi runs: the problem, the captured step, the reference path, how it ended."""
