"""Benchmarks: what a step, an op, the loader and PyTorch take."""
