"""What is done with networks and endpoints, a class each."""
