"""What predicts the next word of a world, and which words count as accepted."""
