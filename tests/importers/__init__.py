"""Real importers, and what they make of our packages: VirtualBox, and govmomi's vCenter simulator; and a real Incus.

They come from Debian (VirtualBox is in no stable release) by the host's own mirror, are unpacked rather than
installed, and run in a sandbox, so that nothing here needs root or changes the host. Nothing is ever started in
VirtualBox and Incus: an import needs no kernel module.
"""
