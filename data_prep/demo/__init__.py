"""A set of pictures that the package draws itself, for use without any data."""
