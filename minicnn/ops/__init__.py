"""One module for each op: its NumPy form and, beside it, the launch of its kernel."""
