"""A run's own state on disk: the Zarr store of finished blocks, the journal, and how far a run is."""
