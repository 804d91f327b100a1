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
    wanted=$(cat "$@" | grep -v '^#' | sort -u)
    for name in $wanted; do
        dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "    installing ${#missing[@]} Debian packages"
    # Services of these packages must not start: the cloud runs its own, in its own place. A cluster of PostgreSQL is
    # not made either. An existing policy is put back as it was.
    local policy=/usr/sbin/policy-rc.d kept=
    if [ -e $policy ] && ! grep -q cenote-policy $policy; then kept=$(mktemp) && cp -p $policy "$kept"; fi
    printf '#!/bin/sh\n# cenote-policy\nexit 101\n' >$policy && chmod 755 $policy
    trap 'if [ -n "${kept:-}" ]; then cp -p "$kept" '$policy'; rm -f "$kept"; else rm -f '$policy'; fi' RETURN
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    export DEBIAN_FRONTEND=noninteractive
    # A run that was cut off may have left packages half set up.
    dpkg --configure -a >/dev/null
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# make_venv FILE...: a virtual environment with the pinned requirements, made again only when they change.
make_venv() {
    local stamp
    stamp=$(cat "$@" | sha256sum | cut -d' ' -f1)
    if [ -x "$venv/bin/python" ] && grep -qx "$stamp" "$venv"/.stamps 2>/dev/null; then return 0; fi
    say "    installing the Python packages"
    [ -x "$venv/bin/python" ] || { mkdir -p "$(dirname "$venv")" && /usr/bin/python3 -m venv "$venv"; }
    local arguments=() file
    for file in "$@"; do arguments+=(-r "$file"); done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
    echo "$stamp" >>"$venv/.stamps"
}
