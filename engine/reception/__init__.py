"""The one gate into the spool: completes headers, chooses queues, writes the body, submits the accept.  Imports config, mail, policy, spool."""

from engine.reception.intake import MEMORY_LOW, RECIPIENT_BYTES, Envelope, Intake, Origin
from engine.reception.reception import Reception

__all__ = ["MEMORY_LOW", "RECIPIENT_BYTES", "Envelope", "Intake", "Origin", "Reception"]
