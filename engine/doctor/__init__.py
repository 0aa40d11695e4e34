"""`engine doctor`: what stands between this host and the mail world.  Imports config, dns, spf.

`examination` runs the probes side by side, over `probe` (connections out), `door` (our listeners) and `dialog` (one SMTP conversation).
What they saw are values: `ports`, `names`, `senders` and `listeners` hold these and judge them, without I/O, as `finding.Finding`s.
`stranger` plans how to come to a listener.
"""

from engine.doctor.examination import Plan, examine
from engine.doctor.finding import Finding, exit_code
from engine.doctor.judgement import Examination, judge

__all__ = ["Examination", "Finding", "Plan", "examine", "exit_code", "judge"]
