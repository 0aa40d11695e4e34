"""engine: a multiprocess spool engine for outbound mail.

The way of a message: listener -> reception -> spool -> scheduler, delivery -> accounting; `supervisor` starts them, `config` says how,
`smtp` and `dns` speak to the world, `policy` decides, `bounce` reports, `control` answers.  docs/architecture.md is the story.
"""

__version__ = "0.1.0"
