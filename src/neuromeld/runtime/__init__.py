"""What a long job needs of the machine: memory, disk, progress, several processes."""
