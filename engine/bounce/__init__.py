"""Mail about mail that failed: DSNs (RFC 3464).  Pure; imports config and mail."""
