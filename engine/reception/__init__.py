"""The one gate into the spool: completes headers, chooses queues, writes the body, submits the accept.  Imports config, mail, policy, spool."""

from engine.reception.intake import Envelope, Intake, Origin
from engine.reception.reception import Reception

__all__ = ["Envelope", "Intake", "Origin", "Reception"]
