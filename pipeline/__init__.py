"""From texts to committed partitions: spec, data, plan, model, capture."""
