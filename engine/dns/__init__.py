"""Names to MX hosts and addresses: codec, stub resolver, cache, MX selection.  Imports config."""
