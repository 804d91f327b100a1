"""The host side of networks: one layer 2 per network across the hosts (bridge and VXLAN), DHCP, anti-spoofing.

`PortManager` (ports.py) is the only door. Which addresses exist and who gets them is decided by the control plane;
nothing here chooses an address. `docs/network.md` tells the whole.
"""
