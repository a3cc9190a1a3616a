"""Everything decided before a pixel is read: grids, tiles, blocks, the run id, what it will cost."""
