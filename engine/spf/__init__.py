"""SPF (RFC 7208): may this address send mail in the name of this domain?  Pure; imports dns for the form of questions and answers.

    check = check_host(ip_address("192.0.2.1"), "example.com", sender="joe@example.com", helo="mail.example.com")
    verdict = await answered(check, resolver.ask)

`record` reads a published record, `macro` expands what stands in it, `evaluation` asks and decides.
"""

from engine.spf.evaluation import Verdict, answered, check_host
from engine.spf.record import Result, SpfError, parse_record

__all__ = ["Result", "SpfError", "Verdict", "answered", "check_host", "parse_record"]
