"""The values that travel between stations: scene, plan, grid, region, result."""
