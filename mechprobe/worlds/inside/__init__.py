"""What is inside a model of a world: its states swapped, and read by probes."""
