"""This process on its host, and the daemon that it becomes."""
