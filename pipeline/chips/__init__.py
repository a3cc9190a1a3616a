"""Chip folders and label polygons: labelled pixels on disk, shared by training, evaluation and data sets."""
