"""The engine: what it asks, and what it is answered."""
