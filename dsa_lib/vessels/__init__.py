"""Vessels in an image: segmentation by filters or by a network, and what is measured on them."""
