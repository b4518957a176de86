"""Models that no stock config describes: their classes, and the config entry that builds them."""
