"""What fails around the engine, and which test shows what it says, what it refuses, that it recovers by itself and that no acknowledged mail is lost.

A real engine; real small disks, in a mount namespace of their own; and for what no kernel does on request a shim between the engine and its system
calls (shim.c).  Each test ends with the account of its mail.

| fault | test | the engine says | meanwhile |
| --- | --- | --- | --- |
"""
