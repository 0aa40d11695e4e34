"""The parent: reads the configuration, holds the listening sockets, forks, watches, stops.

`start` checks the ground and makes a Plan, `Supervisor` runs it, `child` is the first code of every child.
"""
