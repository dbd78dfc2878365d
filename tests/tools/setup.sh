# Shared by lodge-up and lodge-test: messages, packages, build. Sourced, not run.

say() { printf 'lodge: %s\n' "$*" >&2; }
die() {
    local code=$1
    shift
    printf 'lodge: %s\n' "$*" >&2
    exit "$code"
}

# What the build needs on Debian 12.
build_packages=(gcc libc6-dev binutils meson ninja-build pkg-config libmicrohttpd-dev libjansson-dev
    libmimalloc-dev libpcre2-dev libutf8proc-dev libcurl4-gnutls-dev nettle-dev libsqlite3-dev)

# Runs a command as root: directly, or through sudo with the proxy settings kept.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,DEBIAN_FRONTEND,APT_CONFIG,SSL_CERT_FILE "$@" ||
            sudo --preserve-env=http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY,DEBIAN_FRONTEND,APT_CONFIG,SSL_CERT_FILE "$@"
    else
        die 4 "these need to be installed by root, and there is no sudo: $*"
    fi
}

# Installs those of the named Debian packages that are missing.
need_packages() {
    command -v dpkg-query >/dev/null || {
        say "not a Debian system: expecting the equivalents of: $*"
        return 0
    }
    local missing=() p status
    status=$(dpkg-query -W -f='${binary:Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for p in "$@"; do
        grep -qE "^$p(:[a-z0-9]+)? installed$" <<<"$status" || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return 0
    say "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { as_root apt-get -qq update && as_root apt-get -qq -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        die 4 "apt-get could not install: ${missing[*]} (see above; is a Debian mirror reachable?)"
    fi
    rm -f "$log"
}

# build_tree FOLDER MESON_OPTIONS...: configures once, then builds what changed.
build_tree() {
    local dir=$1
    shift
    if [ ! -f "$dir/build.ninja" ]; then
        say "configuring $dir"
        meson setup "$dir" "$@" >"$dir.setup.log" 2>&1 || {
            tail -n 20 "$dir.setup.log" >&2
            die 1 "meson could not configure $dir"
        }
        rm -f "$dir.setup.log"
    elif ! ninja -C "$dir" -n 2>/dev/null | grep -q 'no work to do'; then
        meson configure "$dir" "$@" >/dev/null 2>&1 || true
    fi
    local log
    log=$(mktemp)
    say "building $dir"
    if ! ninja -C "$dir" >"$log" 2>&1; then
        grep -vE '^\[[0-9]+/[0-9]+\]' "$log" | tail -n 40 >&2
        rm -f "$log"
        die 1 "$dir does not build"
    fi
    rm -f "$log"
}
