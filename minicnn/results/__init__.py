"""What one does with finished runs: predict, evaluate, export, draw."""
