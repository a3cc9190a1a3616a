"""What users may set: the run file with every default and limit, and what follows from it for the model."""
