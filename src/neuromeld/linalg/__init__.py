"""Regression and factorisation from sums."""
