"""Public samples that people labelled: images and tables of spectra, each with its own names, as one kind of value.

The samples are not part of this project. :mod:`workflows.labelled.registry` lists them,
``workflows/training/split/places.yaml`` says which places are learnt from and which only measured on;
docs/training-data.md is the table of both.
"""
