"""Figures: arrays and DataFrames in, a matplotlib figure out; no computation of results."""
