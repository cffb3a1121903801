"""A checkpoint as something to walk through: the only part that imports Textual."""
