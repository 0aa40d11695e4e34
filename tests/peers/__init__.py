"""The engine between other people's programs: swaks, curl, smtplib, smtp-source, Postfix, smtp-sink, unbound.  `make peers` runs them all."""
