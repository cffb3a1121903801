"""Signs of damage in the stored bytes of a weight, whatever its numbers mean: for ``damaged-block``."""
