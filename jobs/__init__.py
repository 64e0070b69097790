"""What is computed from a run. A job reads committed partitions and leaves a table or an array in the run."""
