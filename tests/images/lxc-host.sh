#!/bin/bash
# Inside of tests/images/lxchost.py: lxc-host.sh DIRECTORY, in new mount, net, UTS and PID namespaces.
set -euo pipefail
directory=$1
mount --make-rprivate /
# Where cgroups v1 are in use, an empty v2 mount beside them makes libvirt's LXC driver give up.
if mountpoint -q /sys/fs/cgroup/memory && mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
mkdir -p "$directory"/{run,etc,lib,log,cache}
mount --bind "$directory/run" /run
mount --bind "$directory/etc" /etc/libvirt
mount --bind "$directory/lib" /var/lib/libvirt
mount --bind "$directory/log" /var/log/libvirt
mount --bind "$directory/cache" /var/cache/libvirt
mkdir -p /run/libvirt
printf 'host_uuid = "%s"\nauth_unix_rw = "none"\n' "$HOST_UUID" >/etc/libvirt/libvirtd.conf
printf 'security_driver = "none"\n' >/etc/libvirt/lxc.conf
ip link set lo up
ip link add bridge0 type bridge
ip address add "$GATEWAY/24" dev bridge0
ip link set bridge0 up
: >"$directory/leases"
dnsmasq --conf-file=/dev/null --port=0 --no-ping --interface=bridge0 --bind-interfaces --dhcp-range="${GATEWAY%.*}.10,${GATEWAY%.*}.99,1h" \
    --dhcp-option=option:mtu,1450 --dhcp-leasefile="$directory/leases" --pid-file="$directory/dnsmasq.pid" --user=root
virtlogd --daemon
libvirtd --daemon
until virsh --quiet --connect lxc:///system list >/dev/null 2>&1; do sleep 0.1; done
touch "$directory/ready"
exec sleep infinity
