"""The short pass: a score of kills under load, and every recipient accounted for.  `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos.run import Options, run


@pytest.mark.system
@pytest.mark.timeout(240)
def test_every_recipient_is_accounted_for() -> None:
    result = run(Options(seed=20261, kills=16, minutes=0.35, rate=80))
    print(result)
    assert not result.violations, str(result)
    assert result.account.counts["delivered"] and result.account.counts["bounced"] and result.account.counts["queued"]
