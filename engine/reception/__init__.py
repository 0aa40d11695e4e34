"""The one gate into the spool: completes headers, chooses queues, writes the body, submits the accept.  Imports config, mail, policy, spool."""
