"""Figures: pure functions from a dataset to a plotly figure."""
