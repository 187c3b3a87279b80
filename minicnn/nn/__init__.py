"""Networks as data, and their layers with forward and backward by hand."""
