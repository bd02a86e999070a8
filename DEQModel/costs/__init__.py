"""What a run will cost: operations, bytes, seconds and memory of a step, from its configuration alone."""
