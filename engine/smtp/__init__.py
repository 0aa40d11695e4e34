"""The protocol without I/O: grammar, commands, data, server and client cores.  Imports `mail` and leaves; no sockets, no clock."""
