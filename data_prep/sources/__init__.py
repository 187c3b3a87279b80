"""What images lie where: a folder or archive becomes a list of labelled files."""
