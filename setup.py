"""The part of the build that pyproject.toml cannot say: loops over pixels in C, which the package does without.

Where there is no compiler the same is done in NumPy, with the same bytes, in twice the time outside of the model.
"""

import sys

from setuptools import Extension, setup

# As written, each operation rounded once: no product fused with a sum.
FLAGS = (
    [] if sys.platform == "win32" else ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
)

setup(
    ext_modules=[
        Extension(
            "pipeline.machine._pixel_loops",
            ["pipeline/machine/_pixel_loops.c"],
            extra_compile_args=FLAGS,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
