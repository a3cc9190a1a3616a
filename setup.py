"""The part of the build that pyproject.toml cannot say: loops over pixels in C, which the package does without.

Where there is no compiler NumPy does the same, with the same bytes, in more time.
"""

import os
import sys

from setuptools import Extension, setup

# As written, each operation rounded once: no product fused with a sum.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
LOOPS = Extension(
    "pipeline.machine._pixel_loops",
    ["pipeline/machine/_pixel_loops.c"],
    extra_compile_args=[] if sys.platform == "win32" else FLAGS,
    define_macros=[("Py_LIMITED_API", "0x030B0000")],  # one build for every Python from 3.11 on
    py_limited_api=True,
    optional=True,
)

if os.environ.get("SPEX_PIXEL_LOOPS") == "0":  # a wheel for machines of any kind
    setup()
else:
    setup(ext_modules=[LOOPS], options={"bdist_wheel": {"py_limited_api": "cp311"}})
