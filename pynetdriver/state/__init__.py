"""What pynet has made and must not lose: records in the store, and what they are on this host."""
