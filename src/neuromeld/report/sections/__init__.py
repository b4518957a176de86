"""The sections of the report, by family: each takes the record and returns a `Section`, or None."""
