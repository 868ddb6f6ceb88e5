"""What people and programs ask of the daemon over its admin socket, and metrics."""
