"""Whole jobs: from a checkpoint on the disk to another."""
