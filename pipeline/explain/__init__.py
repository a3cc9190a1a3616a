"""What the map says of each sub-region: measured statistics, evidence, and sentences that pass their own check."""
