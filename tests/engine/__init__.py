"""What a user types, through real engines on a lab machine with a LAN."""
