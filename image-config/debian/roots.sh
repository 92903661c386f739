# The two unpacked sets of packages, kept in the cache under the hash of what was asked for: `base`, which becomes the
# device's root, and `tools`, in which the image is made. Maintainer scripts do not run: users, presets and caches
# come from systemd's own declarative files, so that the result depends on nothing but the packages.

suite=trixie

# Sets $base and $tools. $1 mirror, $2 "yes" to fetch anew. The cache stays locked against --refresh until this program ends.
get_roots() {
    exec 8>"$cache/lock"
    flock 8
    get_root tools "$here/debian/tools" "$1" "$2"
    tools=$root
    get_root base "$here/debian/packages" "$1" "$2"
    base=$root
    flock --shared 8
}

# Sets $root to the directory of the set $1 with the packages listed in file $2.
get_root() {
    local name=$1 list=$2 mirror=$3 refresh=$4 key
    key=$( (echo "$suite $mirror" && cat "$list" "$here/debian/roots.sh") | sha256sum | cut -c 1-16)
    root=$cache/$name-$key
    [ -z "$refresh" ] || rm -rf "$root"
    [ ! -e "$root" ] || return 0
    step "unpacking Debian $suite: $name"
    rm -rf "$root.new"
    mkdir "$root.new"
    bootstrap "$list" "$mirror" "$root.new" || fail "the packages of '$name' could not be unpacked; the reason is above"
    mv "$root.new" "$root"
}

# Unpacks into $3/root; writes $3/packages (name and version) and $3/files (package and path), both sorted.
bootstrap() {
    local list=$1 mirror=$2 into=$3 deb name
    mmdebstrap --quiet --variant=extract --architectures=amd64 --skip=cleanup/apt/cache \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="$(grep -v '^#' "$list" | xargs | tr ' ' ,)" $suite "$into/root" - <<<"$(sources "$mirror")" || return
    for deb in "$into"/root/var/cache/apt/archives/*.deb; do
        name=$(dpkg-deb --field "$deb" Package) || return
        echo "$name $(dpkg-deb --field "$deb" Version)"
        dpkg-deb --fsys-tarfile "$deb" | tar -t | sed "s|^\./|$name |" >>"$into/files" || return
    done | LC_ALL=C sort >"$into/packages"
    rm -rf "$into"/root/var/cache/apt/archives
}

sources() {
    local options='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    echo "deb $options $1 $suite main"
    case $1 in
    *snapshot.debian.org*) ;;
    *)
        echo "deb $options $1 $suite-updates main"
        echo "deb $options ${1%/debian}/debian-security $suite-security main"
        ;;
    esac
}
