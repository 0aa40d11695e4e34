"""The built-in blackhole (dummy-smtp-*, `engine sink`): it accepts mail, counts it and throws it away.  Nothing that comes in ever goes out again.

`behaviour` says what is answered (pure), `listening` serves the connections, `worker` is the process of dummy-smtp-port.
Imports config, mail and smtp.
"""
