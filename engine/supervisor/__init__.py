"""The parent: reads the configuration, holds the listening sockets, forks, watches, stops."""
