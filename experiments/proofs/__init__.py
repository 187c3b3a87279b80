"""Proofs: gradients, devices beside each other, runs that were killed."""
