"""``python -m pipeline`` is ``spex``."""

from pipeline.commands.cli import main

if __name__ == "__main__":
    main()
