# The root tree that the tiny VM and the tiny container have in common. Sourced by their builders after packages.sh.

EPOCH=1704067200                                   # one fixed time stamp for every file
ROOT_UUID=6d8f3a52-6c0f-4f0f-9d3b-0c0e7074696e     # the same in every build; instances are clones of it anyway

# Programs: shell and tools, SSH, YAML for user data, passwordless root for the default user.
TINY_PACKAGES=(
    busybox-static dropbear-bin openssh-sftp-server opendoas lua5.4 lua-yaml
    libc6 libcrypt1 libtomcrypt1 libtommath1 libgmp10 zlib1g libreadline8 libtinfo6 libyaml-0-2
    libpam0g libpam-modules libaudit1 libcap-ng0
)
TINY_VM_PACKAGES=(
    qemu-guest-agent libglib2.0-0 libpcre2-8-0 libnuma1 libudev1 liburing2 e2fsprogs libext2fs2 libcom-err2 libblkid1 libuuid1
)
# To reach the root disk (ext4 is built in), and what the running guest may meet. No AHCI exists in this kernel.
BOOT_MODULES=(virtio_pci virtio_blk)
ROOT_MODULES=(
    virtio_pci virtio_blk virtio_net virtio_console virtio_balloon virtio-rng virtio_scsi
    button evdev isofs sr_mod sd_mod ata_piix overlay
)

make_tiny_root() { # make_tiny_root POOL ROOT vm|container
    local pool=$1 root=$2 kind=$3 directory applet
    mkdir -p "$root"/{dev,proc,sys,run,mnt,root,home/cenote,etc/pam.d,etc/dropbear,etc/network,tmp} \
        "$root"/usr/{bin,lib,lib64,lib/cenote} "$root"/var/{lib/cenote,log,tmp,empty}
    for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$root/$directory"; done
    # One directory of programs: SSH gives ordinary users a PATH without sbin, and `doas reboot` has to work for them.
    ln -s bin "$root/usr/sbin"
    ln -s ../run "$root/var/run"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    chmod 700 "$root/root"
    chown 1000:1000 "$root/home/cenote"

    install -m 755 "$pool/usr/bin/busybox" "$root/usr/bin/busybox"
    for applet in $("$pool/usr/bin/busybox" --list); do
        case $applet in
        busybox | init | linuxrc | dpkg | dpkg-deb | rpm) continue ;; # package tools without a database mislead
        poweroff | reboot | halt) continue ;;          # ours: they mean the same in VM and container
        esac
        ln -s busybox "$root/usr/bin/$applet"
    done
    install -D -m 755 "$pool/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/usr/lib64/ld-linux-x86-64.so.2"
    copy_program "$pool" "$root" /usr/sbin/dropbear
    copy_program "$pool" "$root" /usr/bin/dropbearkey
    copy_program "$pool" "$root" /usr/lib/openssh/sftp-server /usr/lib/sftp-server
    copy_program "$pool" "$root" /usr/bin/doas
    chmod 4755 "$root/usr/bin/doas"
    copy_program "$pool" "$root" /usr/lib/x86_64-linux-gnu/security/pam_permit.so
    copy_program "$pool" "$root" /usr/bin/lua5.4
    copy_program "$pool" "$root" /usr/lib/x86_64-linux-gnu/lua/5.4/yaml.so
    mkdir -p "$root/usr/share/lua/5.4/lyaml"
    cp "$pool"/usr/share/lua/5.1/lyaml/*.lua "$root/usr/share/lua/5.4/lyaml/"

    install -m 755 "$HERE"/tiny/lib/* "$root/usr/lib/cenote/"
    install -m 755 "$HERE"/tiny/bin/* "$root/usr/bin/"
    cp -R "$HERE"/tiny/etc/. "$root/etc/"
    install -D -m 755 "$HERE/tiny/acpi-power-button" "$root/etc/acpi/PWRF/00000080"
    echo "$kind" >"$root/usr/lib/cenote/kind"
    chmod -R u=rwX,go=rX "$root/etc"
    chmod 640 "$root/etc/shadow"
    chmod 700 "$root/etc/dropbear"
}

add_kernel_modules() { # add_kernel_modules KERNELTREE ROOT RELEASE MODULE...: with what each depends on
    local from=$1/lib/modules/$3 to=$2/lib/modules/$3 root=$2 release=$3 name path
    shift 3
    # The package carries no modules.dep (its post-install script makes it): made once, in the unpacked tree.
    [ -s "$from/modules.dep" ] || "${work:?}/pool/usr/bin/busybox" depmod -b "${from%/lib/modules/*}" "$release"
    mkdir -p "$to"
    for name in "$@"; do
        if grep -q "/${name//-/[-_]}\.ko" "$from/modules.builtin"; then continue; fi
        path=$(grep -E "(^|/)${name//[-_]/[-_]}\.ko:" "$from/modules.dep" | head -n 1)
        [ -n "$path" ] || die "kernel $release has no module $name"
        for path in ${path/:/}; do
            install -D -m 644 "$from/$path" "$to/$path"
        done
    done
    cp "$from/modules.builtin" "$to/"
    "${work:?}/pool/usr/bin/busybox" depmod -b "$root" "$release"
}
