"""Checkpoints in the forms that other engines load, and which engine loads what."""
