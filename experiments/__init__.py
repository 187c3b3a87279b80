"""Recipes, published figures, benchmarks and recorded results."""
