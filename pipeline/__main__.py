"""``python -m pipeline`` is ``spex``."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
