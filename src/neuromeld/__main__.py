"""`python -m neuromeld`."""

from neuromeld.cli import main

main()
