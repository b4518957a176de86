"""Charts and HTML that reports are made of."""
