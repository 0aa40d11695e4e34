"""Values that every stage shares: address, reply, message id, record.  Imports leaves only."""
