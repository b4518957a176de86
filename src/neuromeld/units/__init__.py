"""Hidden neurons and attention channels of single sublayers: what the stages `heads` and `ffn` share."""
