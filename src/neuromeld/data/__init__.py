"""Calibration and evaluation data by kind."""
