"""Where mail lies until it is settled; the only user of lmdb.  Imports config and mail."""
