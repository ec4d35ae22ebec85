"""From what the witnesses computed to one of three words, a reason and a next step."""
