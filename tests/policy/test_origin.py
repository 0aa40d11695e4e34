"""What a <source> makes of SPF and iprev: refusals by result, and the field that tells of it."""

from __future__ import annotations

import pytest

from engine.config import ClientSettings
from engine.policy.origin import Checked, refusal, results_field

SPF = {
    result: Checked("spf", result, "smtp.mailfrom", "d.example")
    for result in ("pass", "fail", "softfail", "neutral", "none", "temperror", "permerror")
}
IPREV = {result: Checked("iprev", result, "policy.iprev", "192.0.2.1") for result in ("pass", "fail", "temperror", "permerror")}


@pytest.mark.parametrize(
    ("check", "code"),
    [
        *((SPF[result], 0) for result in ("pass", "softfail", "neutral", "none")),
        *((SPF["fail"], 550), (SPF["permerror"], 550), (SPF["temperror"], 451)),
        *((check, 0) for check in IPREV.values()),
    ],
)
def test_what_is_refused_unless_told_otherwise(check: Checked, code: int) -> None:
    answer = refusal(ClientSettings(check_spf_inbound=True, check_iprev_inbound=True), (check,))
    assert (answer.code if answer else 0) == code


def test_each_form_can_be_turned_round() -> None:
    lax = ClientSettings(reject_spf_check_fail=False, reject_spf_check_permerror=False, reject_spf_check_temperror=False)
    assert [refusal(lax, (check,)) for check in SPF.values()] == [None] * 7
    strict = ClientSettings(reject_iprev_check_fail=True, reject_iprev_check_permerror=True, reject_iprev_check_temperror=True)
    found = {result: refusal(strict, (check,)) for result, check in IPREV.items()}
    texts = {result: answer.text if answer else "" for result, answer in found.items()}
    assert texts["pass"] == ""
    assert texts["fail"] == "550 5.7.25 the client's name does not lead back to its address"
    assert texts["permerror"].startswith("550 5.7.25 ")
    assert texts["temperror"].startswith("451 4.7.25 ")
    assert refusal(strict, (IPREV["pass"], SPF["fail"])) is not None


def test_the_field_is_one_that_no_peer_can_shape() -> None:
    field = results_field("mx.example", (IPREV["pass"], SPF["fail"]))
    assert field == b"Authentication-Results: mx.example;\r\n\tiprev=pass policy.iprev=192.0.2.1;\r\n\tspf=fail smtp.mailfrom=d.example\r\n"
    odd = results_field("mx.example", (Checked("spf", "none", "smtp.helo", '[2001:db8::1]"\\\r\nX: é;'),))
    assert odd == b'Authentication-Results: mx.example;\r\n\tspf=none smtp.helo="[2001:db8::1]????X: ?;"\r\n'
    assert len(results_field("m", (Checked("spf", "none", "smtp.helo", "x" * 5000),))) < 400
