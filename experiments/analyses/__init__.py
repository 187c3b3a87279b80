"""`minicnn analyse`: which analyses of which nets, their rows, summaries, pictures."""
