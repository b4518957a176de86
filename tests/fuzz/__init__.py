"""Hostile input, drawn from a seed, for every command: see `driver.py` for what each case must satisfy."""
