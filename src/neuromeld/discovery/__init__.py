"""Models that no family describes: what is found in them, and what is proved of that."""
