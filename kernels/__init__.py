"""Numbers in, numbers out. No input or output, and nothing of ours is imported."""
