"""Functions by name, from the compiled module and from its plain twin: `both` insists that they agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine import _fastpath, _reference


@pytest.fixture(params=["compiled", "reference"])
def loops(request: pytest.FixtureRequest) -> Any:
    return _fastpath if request.param == "compiled" else _reference


@pytest.fixture(scope="session")
def both() -> Callable[..., Any]:
    def call(name: str, *arguments: Any) -> Any:
        compiled, reference = getattr(_fastpath, name)(*arguments), getattr(_reference, name)(*arguments)
        assert compiled == reference, f"{name}{arguments!r}: compiled {compiled!r}, reference {reference!r}"
        return reference

    return call
