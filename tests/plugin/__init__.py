"""The managed plugin through real engines: from a registry to its removal, in hosts that have no other pynet."""
