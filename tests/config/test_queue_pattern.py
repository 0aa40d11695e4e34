"""Queue patterns and the list of them of which the first match decides (reference §1.3, §2.15)."""

from __future__ import annotations

import pytest

from engine.config.queue_pattern import QueuePattern, wanted


@pytest.mark.parametrize(
    ("patterns", "queue", "answer"),
    [
        ("*/*", "yahoo.com/mta1", True),
        ("yahoo.com/*", "yahoo.com/mta1", True),
        ("yahoo.com/*", "mail.yahoo.com/mta1", False),
        ("[*.]yahoo.com/*", "mail.yahoo.com/mta1", True),
        ("*.yahoo.com/*", "yahoo.com/mta1", False),
        ("yahoo.com", "yahoo.com/{default}", True),
        ("*/mta1", "gmail.com/mta1", True),
        ("*/mta1", "gmail.com/mta2", False),
        ("*/mta*", "gmail.com/mta2", True),
        ("[10.0.0.0/8]/*", "[10.1.2.3]/mta1", True),
        ("!yahoo.com/*, */*", "yahoo.com/mta1", False),
        ("!yahoo.com/*, */*", "gmail.com/mta1", True),
        ("yahoo.com/mta1, !yahoo.com/*, */*", "yahoo.com/mta1", True),
        ("!yahoo.com/*", "gmail.com/mta1", False),  # all are negated: nothing matches
        ("", "gmail.com/mta1", False),
    ],
)
def test_the_first_match_decides(patterns: str, queue: str, answer: bool) -> None:
    assert wanted([QueuePattern.parse(text.strip()) for text in patterns.split(",") if text], queue) is answer


@pytest.mark.parametrize("text", ["", "!", "/mta1", "yahoo.com/", "a*b/c", "ya hoo/x"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        QueuePattern.parse(text)
