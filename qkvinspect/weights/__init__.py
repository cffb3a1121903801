"""From stored bytes to numbers: reading in pieces, sums of squares, copying, tensors of torch."""
