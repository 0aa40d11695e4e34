"""Builds engine._fastpath and engine._stream, and compiles the modules of the hot path as they are; everything else is in pyproject.toml.

Those are the ones with a .pxd beside them, which holds their types; the Python source stays the definition, and runs too (ENGINE_FASTPATH=off).
ENGINE_CYTHON_TRACE=1 builds for debugging: line tracing, assertions and annotated HTML.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

TYPED = [str(path.with_suffix("")).replace("/", ".") for path in sorted(Path("engine").rglob("*/*.pxd")) if path.stem != "__init__"]

trace = os.environ.get("ENGINE_CYTHON_TRACE") == "1"


def extension(name: str, suffix: str) -> Extension:
    """The compiled module *name*."""
    return Extension(
        name,
        [name.replace(".", "/") + suffix],
        extra_compile_args=["-O1", "-g"] if trace else ["-O3"],
        define_macros=[("CYTHON_TRACE", "1")] if trace else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    )


def compiled(extensions: list[Extension], **directives: bool) -> list[Extension]:
    """*extensions* as C."""
    common = {"language_level": 3, "boundscheck": trace, "linetrace": trace}
    return list(cythonize(extensions, annotate=trace, force=True, compiler_directives=common | directives))


setup(
    options={"build_ext": {"force": True}},  # file times cannot tell a build for debugging from a plain one
    ext_modules=[
        *compiled([extension("engine._fastpath", ".pyx"), extension("engine._stream", ".pyx")], wraparound=False, cdivision=True),
        *compiled([extension(name, ".py") for name in TYPED], boundscheck=True, annotation_typing=False),  # the .pxd says it all
    ],
)
