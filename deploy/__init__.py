"""Set-up: what brings a cloud, its lab and its tests up on a machine. Run as commands; see `deploy/README.md`."""
