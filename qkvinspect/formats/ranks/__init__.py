"""Rank files of tensor and pipeline parallelism: which they are, how they are cut, and how they are joined."""
