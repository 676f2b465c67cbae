"""Seating puzzles: the questions of the paper, asked of a chat model."""
