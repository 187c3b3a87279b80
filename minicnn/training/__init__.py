"""Solver, training loop, run folders, checkpoints, treatments and transfer."""
