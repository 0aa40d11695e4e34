"""One process that drains the outbox into accounting files: `columns` and `layout` say how a record looks, `journal` is a file on disk, `export`
keeps the order of writing, syncing and telling the spool, `worker` is the process.  Imports config, mail and spool.
"""
