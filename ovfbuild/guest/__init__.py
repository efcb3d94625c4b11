"""What runs inside a guest, with the guest's own Python (3.8 or newer) and nothing else.

`runner` carries out a build's steps and `witness` tells that a packed appliance has come up. Both
lie on the seed ISO as they lie here, so that `python3 -m ovfbuild.guest.runner` works on both sides.
"""
