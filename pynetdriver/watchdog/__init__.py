"""What is looked at beside the calls, and at start."""
