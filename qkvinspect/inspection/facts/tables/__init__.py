"""Tables of how libraries speak of heads, a library each, made by the generators in ``tests/tables``."""
