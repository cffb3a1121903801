"""What is known of a layer's heads, and where it was said."""
