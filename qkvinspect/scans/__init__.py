"""Whole training runs: many checkpoints scanned into rows, and how their figures move from step to step."""
