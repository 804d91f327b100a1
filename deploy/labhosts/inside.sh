#!/bin/sh
# Runs once in a lab host's fresh mount and UTS namespaces and lays out what the host sees.
#   inside.sh DIR NAME STATE VENV
# Hidden: the rest of the state directory (database, secrets, other hosts). Shared: the pool's storage.
set -eu
dir=$1 name=$2 state=$3 venv=$4
mount --make-rprivate /
hostname "$name"

# LXC takes an empty cgroup v2 mount beside v1 controllers for the real one, and fails.
if [ -d /sys/fs/cgroup/memory ] && mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi

mkdir -p /etc/libvirt /etc/pki /etc/cenote /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/cenote
mount --bind "$dir/etc/libvirt" /etc/libvirt
mount --bind "$dir/etc/pki" /etc/pki
mount --bind "$dir/etc/cenote" /etc/cenote
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/cenote" /var/lib/cenote
mount --bind "$state/shared" /var/lib/cenote/shared

# What stays visible of the state directory is held aside while the rest disappears.
hold=$dir/hold
mkdir -p "$hold/venv" "$hold/doors"
mount --bind "$state/run/doors" "$hold/doors"
case $venv in "$state"/*) mount --bind "$venv" "$hold/venv" ;; esac
mount --bind "$hold" /mnt
mount --bind "$hold/doors" /mnt/doors
case $venv in "$state"/*) mount --bind "$hold/venv" /mnt/venv ;; esac
mount --bind "$dir/run" /run
mount -t tmpfs -o mode=755,size=1m tmpfs "$state"
mkdir -p "$state/run/doors"
mount --move /mnt/doors "$state/run/doors"
case $venv in
"$state"/*)
    mkdir -p "$venv"
    mount --move /mnt/venv "$venv"
    ;;
esac
umount /mnt
