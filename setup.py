"""Builds engine._fastpath and engine._stream; everything else about the package is in pyproject.toml.

ENGINE_CYTHON_TRACE=1 builds it for debugging: line tracing, assertions and annotated HTML.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

trace = os.environ.get("ENGINE_CYTHON_TRACE") == "1"


def extension(name: str, depends: list[str]) -> Extension:
    """The compiled module engine/NAME.pyx."""
    return Extension(
        f"engine.{name}",
        [f"engine/{name}.pyx"],
        depends=depends,
        extra_compile_args=["-O1", "-g"] if trace else ["-O3"],
        define_macros=[("CYTHON_TRACE", "1")] if trace else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    )


setup(
    options={"build_ext": {"force": True}},  # file times cannot tell a build for debugging from a plain one
    ext_modules=cythonize(
        [extension("_fastpath", ["engine/_fastpath.pxd"]), extension("_stream", [])],
        annotate=trace,
        force=True,
        compiler_directives={
            "language_level": 3,
            "boundscheck": trace,
            "wraparound": False,
            "cdivision": True,
            "linetrace": trace,
        },
    ),
)
