"""A declared grid of models, rows, budgets and seeds, measured row by row into a file of results."""

from neuromeld.benchmark.draw import draw_results
from neuromeld.benchmark.grid import Grid, Row, load_grid
from neuromeld.benchmark.measure import Bench
from neuromeld.benchmark.results import Line, Results, excess_loss, recovered_loss

__all__ = ["Bench", "Grid", "Line", "Results", "Row", "draw_results", "excess_loss", "load_grid", "recovered_loss"]
