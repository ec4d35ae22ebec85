"""What a witness is given, and what it says."""
