"""Public data sets with labels, read as they were released, for users who hold them."""

from pipeline.datasets.registry import DATASETS, dataset_named, open_dataset

__all__ = ["DATASETS", "dataset_named", "open_dataset"]
