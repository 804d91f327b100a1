# Getting Debian packages and taking programs out of them. Sourced by the builders; needs bash.
#
# Nothing is installed: packages are downloaded into a cache, unpacked into a pool directory, and single programs are
# copied from there with the shared libraries that they load. What the building machine has installed plays no part.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }

need_tools() { # need_tools PROGRAM...: stop early, with the package list named, when one is missing
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing; install the packages listed in ${HERE:?}/packages.txt"
    done
}

lock_output() { # lock_output OUTDIR NAME: one builder of an image at a time; removes what a killed one left behind
    exec 9>"$1/.$2.lock"
    flock 9
    rm -rf --one-file-system "$1/.$2".??????
}

recipe_of() { # recipe_of CACHE PACKAGE... -- FILE...: a checksum of all that goes into an image
    local cache=$1 argument packages=yes
    shift
    for argument in "$@"; do
        if [ "$argument" = -- ]; then
            packages=no
        elif [ "$packages" = yes ]; then
            readlink "$cache/$argument.deb"
        else
            (cd "$HERE" && find "$argument" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
        fi
    done | sha256sum | cut -d ' ' -f 1
}

stop_if_built() { # stop_if_built MANIFEST RECIPE: ends the builder, successfully, when the same image is there already
    local directory=${1%/*} path
    grep -qs "\"recipe\": \"$2\"" "$1" || return 0
    for path in $(sed -n 's/.*"path": "\([^"]*\)", "sha256": "\([^"]*\)".*/\1/p' "$1"); do
        [ "$(file_sha256 "$directory/$path")" = "$(sed -n "s/.*\"path\": \"$path\", \"sha256\": \"\([^\"]*\)\".*/\1/p" "$1")" ] || return 0
    done
    say "nothing to do: $1 is of these packages and scripts"
    exit 0
}

fetch_packages() { # fetch_packages CACHE PACKAGE...: the candidate version of each as CACHE/PACKAGE.deb
    local cache=$1 package file
    shift
    mkdir -p "$cache/debs"
    if ! download_missing "$cache/debs" "$@"; then
        # The usual reason: the lists are older than the mirror, which has dropped the version they name.
        say "refreshing the package lists"
        apt-get update -qq || say "the package lists could not be refreshed"
        download_missing "$cache/debs" "$@" || say "not everything could be downloaded; looking in the cache"
    fi
    for package in "$@"; do
        # Newest first. Offline, one fetched earlier is as good: apt checked it against the signed lists then.
        file=$(find "$cache/debs" -name "${package}_*.deb" -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d ' ' -f 2-)
        [ -n "$file" ] || die "cannot download $package"
        ln -sfn "debs/${file##*/}" "$cache/$package.deb"
    done
}

download_missing() { # download_missing DIRECTORY PACKAGE...: one call of apt for all, none where all are there
    local directory=$1 wanted file missing=()
    shift
    wanted=$(apt-get download --print-uris "$@" 2>/dev/null | cut -d ' ' -f 2) && [ -n "$wanted" ] || return 1
    for file in $wanted; do
        [ -s "$directory/$file" ] || missing+=("${file%%_*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "downloading ${#missing[@]} packages"
    # The sandbox user of apt cannot write here, hence root.
    (cd "$directory" && apt-get -qq -o APT::Sandbox::User=root download "${missing[@]}" >&2)
}

kernel_package() { # kernel_package CACHE: what linux-image-cloud-amd64 stands for, such as linux-image-6.1.0-37-cloud-amd64
    local name
    name=$(newest_kernel)
    if [ -z "$name" ]; then
        say "refreshing the package lists"
        apt-get update -qq || say "the package lists could not be refreshed"
        name=$(newest_kernel)
    fi
    # Offline and without lists, one fetched earlier.
    [ -n "$name" ] || name=$(find "$1" -maxdepth 1 -name 'linux-image-[0-9]*.deb' -printf '%f\n' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$name" ] || die "the package sources have no linux-image-cloud-amd64 (is main of Debian 12 enabled?)"
    printf '%s\n' "${name%.deb}"
}

newest_kernel() { # nothing, when the lists know none
    { apt-cache depends linux-image-cloud-amd64 2>/dev/null || true; } |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

unpack_packages() { # unpack_packages CACHE POOL PACKAGE...: with /bin, /sbin and /lib merged into /usr
    local cache=$1 pool=$2 package directory
    shift 2
    for directory in bin sbin lib lib64; do
        mkdir -p "$pool/usr/$directory"
        ln -sfn "usr/$directory" "$pool/$directory"
    done
    for package in "$@"; do
        # tar -h keeps the merged directories: dpkg-deb -x would replace the links by what the archive holds.
        dpkg-deb --fsys-tarfile "$cache/$package.deb" | tar -x -f - -C "$pool" --keep-directory-symlink --no-same-owner
    done
}

copy_program() { # copy_program POOL ROOT PATH [TARGET]: a program or plug-in, and all libraries it loads
    local pool=$1 root=$2 path=$3 target=${4:-$3} library
    install -D -m "$(stat -L -c %a "$pool$path")" "$pool$path" "$root$target"
    # The pool's own loader resolves, on the pool's own libraries, so that none of the building machine slips in.
    "$pool/usr/lib64/ld-linux-x86-64.so.2" --library-path "$pool/usr/lib/x86_64-linux-gnu" --list "$pool$path" |
        sed -n "s|.* => \($pool[^ ]*\) .*|\1|p" |
        while read -r library; do
            [ -e "$root/usr/lib/x86_64-linux-gnu/${library##*/}" ] ||
                install -D -m 644 "$library" "$root/usr/lib/x86_64-linux-gnu/${library##*/}"
        done
}

file_sha256() { sha256sum "$1" | cut -d ' ' -f 1; }
