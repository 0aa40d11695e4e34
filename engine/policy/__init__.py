"""Who may do what, and by which virtual MTA mail leaves.  Pure; imports config and mail."""
