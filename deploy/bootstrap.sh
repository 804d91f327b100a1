# Sourced by the commands of deploy/: from a bare Debian 12 to a Python with the pinned packages.
# Every step looks first and is quick when there is nothing to do.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${CENOTE_STATE_DIR:-$repo/var}
venv=${CENOTE_VENV:-$state/venv}
export CENOTE_STATE_DIR=$state CENOTE_VENV=$venv PYTHONPATH=$repo PYTHONDONTWRITEBYTECODE=1

say() { printf '%s\n' "$*" >&2; }

need_root_and_debian() {
    if [ "$(id -u)" != 0 ]; then
        say "This has to run as root: it makes network namespaces and starts hypervisors."
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        say "This needs Debian 12 (apt-get is missing here)."
        exit 1
    fi
}

# install_packages FILE...: the Debian packages named in the files, those that are missing only.
install_packages() {
    local wanted missing=() name
    # One at a time: another command's run must not take this one's policy away.
    mkdir -p /run/lock
    exec 8>/run/lock/cenote-packages
    flock 8
    release_services
    wanted=$(cat "$@" | grep -v '^#' | sort -u)
    for name in $wanted; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || { exec 8>&-; return 0; }
    say "    installing ${#missing[@]} Debian packages"
    hold_services
    # PostgreSQL's package must not make a cluster of its own, nor start one.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    export DEBIAN_FRONTEND=noninteractive
    # A run that was cut off may have left packages half set up.
    dpkg --configure -a >/dev/null || true
    # The machine's own updates may be at work: they are waited for, not disturbed.
    apt-get -qq -o DPkg::Lock::Timeout=300 update ||
        say "    the package lists could not be renewed; going on with those that are here"
    apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "${missing[@]}" >/dev/null || {
        say "The Debian packages could not be installed: see above and /var/log/apt/term.log, then run this again."
        exit 1
    }
    disable_services "${missing[@]}"
    release_services
    for name in "${missing[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || {
            say "The Debian package $name could not be installed: see /var/log/apt/term.log"
            exit 1
        }
    done
    exec 8>&-
}

policy=/usr/sbin/policy-rc.d

# Services of the packages must not start: the cloud runs its own, in its own place. The machine's own policy is put
# aside under a fixed name, so that it comes back even when this run is killed: by the next one.
hold_services() {
    if [ -e $policy ] && ! grep -q cenote-policy $policy; then mv $policy $policy.before-cenote; fi
    trap release_services EXIT
    printf '#!/bin/sh\n# cenote-policy\nexit 101\n' >$policy && chmod 755 $policy
}

# disable_services PACKAGE...: what was installed just now must not start at the next boot either, a second Redis on its
# usual port least of all. deploy/join enables libvirt again, with its own configuration.
disable_services() {
    command -v systemctl >/dev/null || return 0
    local name units=()
    for name in "$@"; do
        # PostgreSQL's unit is shared by all versions: where the machine has clusters of its own, it stays.
        if [ "$name" = postgresql-15 ] && ! compgen -G '/etc/postgresql/*/*' >/dev/null; then units+=(postgresql.service); fi
        mapfile -t -O ${#units[@]} units < <(dpkg -L "$name" 2>/dev/null |
            sed -nE 's|^(/usr)?/lib/systemd/system/([^/@]+\.(service\|socket))$|\2|p')
    done
    [ ${#units[@]} -eq 0 ] || systemctl --quiet disable "${units[@]}" 2>/dev/null || true
}

release_services() {
    trap - EXIT
    if grep -qs cenote-policy $policy; then rm -f $policy; fi
    if [ -e $policy.before-cenote ]; then mv $policy.before-cenote $policy; fi
}

# make_venv FILE...: a virtual environment with the pinned requirements, made again only when they change.
make_venv() {
    local stamp
    stamp=$(cat "$@" | sha256sum | cut -d' ' -f1)
    if [ -x "$venv/bin/python" ] && grep -qx "$stamp" "$venv"/.stamps 2>/dev/null; then return 0; fi
    say "    installing the Python packages"
    # Cut off while it was made, an environment has a Python and no pip: it is made anew.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        mkdir -p "$(dirname "$venv")"
        /usr/bin/python3 -m venv --clear "$venv"
    fi
    local arguments=() file
    for file in "$@"; do arguments+=(-r "$file"); done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
    echo "$stamp" >>"$venv/.stamps"
}
