"""Tiles in, class scores out, merged without a seam: the classifiers and the overlap-weighted stitching."""
