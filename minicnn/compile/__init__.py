"""From source text to a callable: parsed kernels, host compiler, emulator."""
