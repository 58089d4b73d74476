"""Dot products of all pairs of a sample's vectors on the GPU, and their gradients."""
