"""Convolution: its shape, its plan on a GPU, and its three forms."""
