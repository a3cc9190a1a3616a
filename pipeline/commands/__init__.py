"""The command ``spex``: a thin layer over the public functions, and what it shows on a terminal."""
