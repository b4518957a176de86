"""Run long jobs on a machine: memory, disk, progress, several processes."""
