"""Mail about mail that failed: `classify` its category, `notify` who wants to hear of it, `dsn` the report (RFC 3464).

Pure; imports config and mail.
"""
