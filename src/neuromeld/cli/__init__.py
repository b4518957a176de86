"""The command line."""

from neuromeld.cli.app import main

__all__ = ["main"]
