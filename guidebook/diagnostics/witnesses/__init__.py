"""One file a witness: what it computes from draws, and what it can and cannot see."""
