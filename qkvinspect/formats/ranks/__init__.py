"""Rank files of tensor and pipeline parallelism: recognise them, know how tensors are cut, and join them."""
