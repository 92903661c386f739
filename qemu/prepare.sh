# What qemu/run and tests/run do before they start: packages, compiler, programs. Sourced with `project` set.

# The oldest Rust that builds the project: rust-version in Cargo.toml.
rust_needed=1.94

step() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

require_root() {
    [ "$(id -u)" = 0 ] || fail "root is needed for namespaces and the image; use sudo"
}

# Installs those of the packages in qemu/packages that are not there.
install_packages() {
    command -v dpkg-query >/dev/null || fail "this is no Debian system; install what qemu/packages lists by hand"
    local wanted missing=() package
    wanted=$(sed '/^#/d' "$project/qemu/packages")
    for package in $wanted; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    step "installing ${missing[*]}"
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# Makes `cargo` one that is new enough: the one on the PATH, rustup's, or Debian's package for building its browsers.
find_rust() {
    [ ! -r "${CARGO_HOME:-$HOME/.cargo}/env" ] || source "${CARGO_HOME:-$HOME/.cargo}/env"
    new_enough && return
    if command -v rustup >/dev/null && rustup toolchain install stable --profile minimal >&2; then
        export RUSTUP_TOOLCHAIN=stable
        new_enough && return
    fi
    step "installing Rust"
    apt-get update -q >&2
    local pair
    for pair in "rustc-web cargo-web" "rustc cargo"; do
        # shellcheck disable=SC2086 # two packages
        if DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $pair >&2; then
            new_enough && return
        fi
    done
    fail "Rust $rust_needed or later is needed; install it from https://rustup.rs"
}

new_enough() {
    local version
    version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [ -n "$version" ] && command -v cargo >/dev/null || return 1
    [ "$(printf '%s\n' "$rust_needed" "$version" | sort -V | head -n 1)" = "$rust_needed" ]
}

# Builds the named packages and sets `programs` to where they are.
build_programs() {
    local profile=${M2MVPN_PROFILE:-release} target=${CARGO_TARGET_DIR:-$project/target}
    step "building the programs ($profile)"
    (cd "$project" && cargo build --locked --profile "$profile" "$@") || fail "the programs cannot be built"
    [ "$profile" != dev ] || profile=debug
    programs=$(cd "$target/$profile" && pwd)
}
