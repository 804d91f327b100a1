"""The lab: several real hosts on one machine, each with its own libvirtd in namespaces of its own."""
