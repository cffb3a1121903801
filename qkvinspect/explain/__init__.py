"""What a layer is, in words and code, and a proof of it by running the module."""
