"""A live model: read and change its weights, look at its activations."""
