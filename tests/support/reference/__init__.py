"""The float64 oracles: what each op means, in plain loops, sharing no code with it."""
