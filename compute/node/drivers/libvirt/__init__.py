"""The libvirt driver: VMs on QEMU (KVM or translation) and system containers on LXC. Enter by `host.LibvirtDriver`."""
