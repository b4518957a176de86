"""The stages of a compression, one package each."""
