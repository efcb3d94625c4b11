"""Data: hypervisor profiles, guest operating systems, and the schema of a descriptor."""
