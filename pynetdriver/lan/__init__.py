"""The LAN: what is asked of other machines before and while a container uses an address there."""
