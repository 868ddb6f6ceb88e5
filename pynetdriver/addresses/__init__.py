"""Where the addresses of containers come from, and who else has them."""
