"""Lab hosts: namespaces, underlay, libvirt daemons, and the join that real machines go through as well."""
