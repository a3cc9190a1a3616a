"""Facts of the published SPEX checkpoints that are needed before torch is."""

from __future__ import annotations

PUBLISHED_BANDS = ("red", "green", "blue")
"""What they see."""
PUBLISHED_PX = 512
"""Side of every image that they have seen."""
IMAGE_TOKENS = (PUBLISHED_PX // 16) ** 2
"""Of such an image, one for each 16 x 16 px."""
ANSWER_TOKENS = 256
"""Longest answer."""
QUESTIONS_AT_ONCE = 16
"""Questions about one image that a map answers side by side. Fixed, because float sums depend on it."""
