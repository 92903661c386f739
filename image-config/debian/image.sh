# From the unpacked packages to the disk. Everything runs in the `tools` root, in a directory of its own, without mounts
# and loop devices; every time, UUID, salt and order is fixed or derived from what goes in.

# The disk's layout in MiB. Slots A and B are equal.
esp_size=128
root_size=256
hash_size=8
data_size=256

# Partition types of the Discoverable Partitions Specification, for x86-64.
type_esp=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
type_root=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
type_hash=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5
type_data=0FC63DAF-8483-4772-8E79-3D69D8477DE4

# $1 directory of the programs, $2 first-boot file or nothing, $3 where the results go.
make_image() {
    local bin=$1 first_boot=$2 out=$3
    work=$(mktemp -d "$tools/root/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # The same directory as the tools see it.
    inside=/${work##*/}

    step "filling the root"
    cp -a "$base/root" "$work/root"
    prune_root
    add_product "$bin"
    finish_root
    check_libraries
    step "compressing the root"
    make_root_slot
    step "making initrd, kernel image and disk"
    make_initrd
    make_kernel_image
    make_esp "$first_boot"
    make_data
    make_disk
    write_manifest "$bin"
    write_sizes
    mv "$work/m2mvpn.img" "$work/m2mvpn.manifest" "$work/m2mvpn.json" "$out/"
    rm -rf "$work"
    trap - EXIT
}

# Takes away what only installing or reading needs, and the kernel modules that are not listed.
prune_root() {
    local pattern package
    dropped=$(grep -v '^#' "$here/debian/dropped")
    for package in $dropped; do
        grep -q "^$package " "$base/packages" || fail "debian/dropped names $package, which nothing depends on any more; delete the line"
    done
    awk 'NR == FNR { dropped[$1]; next } $1 in dropped && $2 !~ /\/$/ { print $2 }' <(echo "$dropped") "$base/files" |
        (cd "$work/root" && xargs -d '\n' rm -f --)
    (
        cd "$work/root"
        while read -r pattern; do
            # shellcheck disable=SC2086
            rm -rf -- $pattern
        done < <(grep -v '^#' "$here/debian/prune")
    )
    prune_modules
    find "$work/root/usr" "$work/root/etc" -type d -empty -delete
}

# Keeps the modules of debian/modules and what they depend on, uncompressed: the root compresses them itself, and the
# kernel then has no xz to undo at every boot.
prune_modules() {
    local modules kernel
    modules=$(echo "$work"/root/usr/lib/modules/*)
    kernel=${modules##*/}
    [ -d "$modules" ] || fail "expected one kernel in the packages, found: $modules"
    kernel_version=$kernel
    in_tools find "$inside/root/usr/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    rm -rf "$modules/build" "$modules/source"
    depmod_in "$inside/root" "$kernel"
    module_closure "$modules" "$here/debian/modules" >"$work/kept"
    (cd "$modules" && find . -name '*.ko' -printf '%P\n' | LC_ALL=C sort | comm -23 - "$work/kept" | xargs -d '\n' rm -f --)
    find "$modules" -type d -empty -delete
    depmod_in "$inside/root" "$kernel"
}

# The paths of the modules that the list $2 names and of those that they depend on, below $1, sorted.
module_closure() {
    local modules=$1 list=$2 pattern
    (
        cd "$modules/kernel"
        while read -r pattern; do
            compgen -G "$pattern.ko" || true
        done < <(grep -v '^#' "$list" | sed '/^$/d')
    ) | sed 's|^|kernel/|' | awk -F: '
        NR == FNR { needs[$1] = $2; next }
        { keep($1) }
        function keep(path,   list, n, i) {
            if (path in kept) return
            kept[path]
            n = split(needs[path], list, " ")
            for (i = 1; i <= n; i++) keep(list[i])
        }
        END { for (path in kept) print path }' "$modules/modules.dep" - | LC_ALL=C sort
}

# The product's files and programs, with modes that do not depend on the builder's umask.
add_product() {
    local bin=$1 path
    (cd "$here/files" && find . -type f -printf '%P\n') | while read -r path; do
        install -D -m "$([ -x "$here/files/$path" ] && echo 0755 || echo 0644)" "$here/files/$path" "$work/root/$path"
    done
    install -m 0755 "$bin/vpnd" "$bin/m2m-first-boot" "$work/root/usr/sbin/"
    install -m 0755 "$bin/vpnctl" "$work/root/usr/bin/"
    for path in usr/sbin/vpnd usr/sbin/m2m-first-boot usr/bin/vpnctl; do
        # A script may stand for a program; there is nothing to strip from it.
        [ "$(head -c 4 "$work/root/$path")" != $'\x7fELF' ] || in_tools strip "$inside/root/$path"
    done
}

# What maintainer scripts would have done, and what makes a read-only root.
finish_root() {
    local root=$work/root applet
    version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
    version=$version.$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)
    cat >"$root/usr/lib/os-release" <<TEXT
NAME="m2mvpn"
PRETTY_NAME="m2mvpn $version"
ID=m2mvpn
ID_LIKE=debian
VERSION_CODENAME=$suite
IMAGE_ID=m2mvpn
IMAGE_VERSION=$version
DEFAULT_HOSTNAME=m2mvpn
TEXT
    ln -s ../usr/lib/os-release "$root/etc/os-release"
    ln -s ../run/m2mvpn/localtime "$root/etc/localtime"
    ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    ln -s ../proc/self/mounts "$root/etc/mtab"
    : >"$root/etc/machine-id"
    chmod 0444 "$root/etc/machine-id"
    rm -rf "$root/var" "$root/home" "$root/srv" "$root/opt" "$root/media" "$root/mnt" "$root/root"
    mkdir -p "$root/var" "$root/data" "$root/efi"
    mkdir -m 0700 "$root/root"
    chmod 0755 "$root/tmp"

    in_tools systemd-sysusers --root="$inside/root" 2>/dev/null
    rm -f "$root"/etc/*- "$root/etc/.pwd.lock" "$root/etc/.updated"
    in_tools systemctl --root="$inside/root" --quiet preset-all 2>/dev/null
    in_tools systemctl --root="$inside/root" --quiet set-default multi-user.target 2>/dev/null
    # BusyBox stands for every small command that no package brought.
    chroot "$root" /usr/bin/busybox --list-full | sed 's|^usr/||' | while read -r applet; do
        applet=usr/$applet
        case $applet in
        */init | */linuxrc | */login | */getty | */passwd | */su | */sulogin | */dpkg* | */rpm* | */udhcp* | */klogd | */syslogd) continue ;;
        esac
        [ -e "$root/$applet" ] || [ -e "$root/usr/bin/${applet##*/}" ] || ln -s ../bin/busybox "$root/$applet"
    done
    [ -e "$root/usr/bin/sh" ] || ln -s bash "$root/usr/bin/sh"
    in_tools ldconfig -X -r "$inside/root"
    rm -rf "$root/var/cache"
    find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    # systemd sets the clock to this file's time if it is earlier.
    touch -d "@$SOURCE_DATE_EPOCH" "$root/usr/lib/clock-epoch"
}

# Fails if a program or library of the root needs a library that is not there.
check_libraries() {
    local missing
    missing=$(in_tools bash -c "
        cd $inside/root
        find usr/bin usr/sbin usr/lib -type f ! -name '*.ko' ! -path '*/modules/*' -exec bash -c '
            for file; do
                [ \"\$(head -c 4 \"\$file\")\" != \"\$(printf \"\\177ELF\")\" ] || echo \"\$file\"
            done' bash {} + |
            xargs objdump -p 2>/dev/null |
            gawk '/file format/ { file = \$1 } \$1 == \"NEEDED\" { print \$2, file }' |
            while read -r library file; do
                [ -e usr/lib/x86_64-linux-gnu/\$library ] || [ -e usr/lib/x86_64-linux-gnu/systemd/\$library ] ||
                    [ -e usr/lib64/\$library ] || echo \"\$file needs \$library\"
            done | sort")
    [ -z "$missing" ] || fail "the root lacks libraries (see debian/packages, debian/dropped, debian/prune):
$missing"
}

make_root_slot() {
    local verity
    in_tools mkfs.erofs --quiet -z lz4hc,12 -C 65536 -T "$SOURCE_DATE_EPOCH" -U "$(derived_uuid root)" -L m2mvpn-root \
        "$inside/root.erofs" "$inside/root" >&2
    root_bytes=$(stat -c %s "$work/root.erofs")
    [ "$root_bytes" -le $((root_size << 20)) ] || fail "the compressed root has $root_bytes bytes and does not fit its slot of $root_size MiB"
    root_blocks=$((root_bytes / 4096))
    salt=$(sha256sum <"$work/root.erofs" | cut -c 1-64)
    verity=$(in_tools veritysetup format "$inside/root.erofs" "$inside/root.hash" --salt="$salt" --uuid="$(derived_uuid "hash $salt")" \
        --data-block-size=4096 --hash-block-size=4096 --data-blocks=$root_blocks --root-hash-file="$inside/root.roothash") || fail "$verity"
    root_hash=$(cat "$work/root.roothash")
}

# BusyBox, findfs, dmsetup, their libraries, the disk's modules and debian/init, in a cpio archive.
make_initrd() {
    local initrd=$work/initrd root=$work/root library libraries
    mkdir -p "$initrd"/{bin,dev,proc,sys,sysroot,lib64,usr/lib/x86_64-linux-gnu}
    ln -s usr/lib "$initrd/lib"
    install -m 0755 "$here/debian/init" "$initrd/init"
    cp "$root/usr/bin/busybox" "$root"/usr/sbin/{dmsetup,findfs} "$initrd/bin/"
    libraries=$(for library in dmsetup findfs; do chroot "$root" /lib64/ld-linux-x86-64.so.2 --list /usr/sbin/$library; done |
        sed -n 's|.* => \(/[^ ]*\) .*|\1|p' | sort -u)
    for library in $libraries; do
        cp "$root/$library" "$initrd/usr/lib/x86_64-linux-gnu/"
    done
    cp "$root/usr/lib64/ld-linux-x86-64.so.2" "$initrd/lib64/"

    local modules=usr/lib/modules/$kernel_version
    mkdir -p "$initrd/$modules"
    module_closure "$root/$modules" "$here/debian/initrd-modules" | (cd "$root/$modules" && xargs -d '\n' cp --parents -t "$initrd/$modules")
    cp "$root/$modules"/modules.{order,builtin,builtin.modinfo} "$initrd/$modules/"
    depmod_in "$inside/initrd" "$kernel_version"
    # BusyBox reads the texts; the binary indices are for kmod.
    rm -f "$initrd/$modules"/*.bin "$initrd/$modules"/modules.{devname,softdep,symbols,weakdep}

    find "$initrd" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    in_tools bash -c "cd $inside/initrd && find . | LC_ALL=C sort | cpio --quiet --reproducible --owner=0:0 -o -H newc | zstd -q -19 -T1 >$inside/initrd.cpio.zst"
}

make_kernel_image() {
    cp "$base/root/boot/vmlinuz-$kernel_version" "$work/vmlinuz"
    cat >"$work/cmdline" <<TEXT
console=tty0 console=ttyS0,115200 quiet panic=10 oops=panic roothash=$root_hash m2mvpn.verity=$root_blocks,$salt m2mvpn.slot=a systemd.machine_id=firmware systemd.gpt_auto=0 systemd.getty_auto=no fsck.repair=yes
TEXT
    in_tools ukify build --linux="$inside/vmlinuz" --initrd="$inside/initrd.cpio.zst" --cmdline="@$inside/cmdline" \
        --os-release="@$inside/root/usr/lib/os-release" --uname="$kernel_version" --output="$inside/uki.efi" >/dev/null
}

make_esp() {
    local first_boot=$1 esp=$work/esp
    mkdir -p "$esp"/{EFI/BOOT,EFI/Linux,loader,m2mvpn}
    cp "$tools/root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" "$esp/EFI/BOOT/BOOTX64.EFI"
    cp "$work/uki.efi" "$esp/EFI/Linux/m2mvpn-a.efi"
    printf 'timeout 0\neditor no\ndefault m2mvpn-*\n' >"$esp/loader/loader.conf"
    cp "$here/first-boot.example.toml" "$esp/m2mvpn/"
    [ -z "$first_boot" ] || cp "$first_boot" "$esp/m2mvpn/first-boot.toml"
    find "$esp" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
    truncate -s ${esp_size}M "$work/esp.fat"
    in_tools bash -c "
        mkfs.vfat --invariant -F 32 -n M2MVPN-ESP -i $(derived_uuid esp | cut -c 1-8) $inside/esp.fat >/dev/null &&
        cd $inside/esp && mcopy -s -p -m -Q -i $inside/esp.fat EFI loader m2mvpn ::"
}

# An empty file system. It grows to the end of the disk at the first boot.
make_data() {
    truncate -s ${data_size}M "$work/data.ext4"
    in_tools mke2fs -q -t ext4 -m 0 -L m2mvpn-data -U "$(derived_uuid data)" -E "hash_seed=$(derived_uuid seed),root_owner=0:0" \
        -O metadata_csum,64bit "$inside/data.ext4"
}

make_disk() {
    local disk=$work/m2mvpn.img start=1 name size type uuid content
    truncate -s $((start + esp_size + 2 * (root_size + hash_size) + data_size + 1))M "$disk"
    # name, MiB, type, UUID, content
    cat >"$work/partitions" <<TEXT
m2mvpn-esp $esp_size $type_esp $(derived_uuid part-esp) esp.fat
m2mvpn-root-a $root_size $type_root $(as_uuid "${root_hash:0:32}") root.erofs
m2mvpn-hash-a $hash_size $type_hash $(as_uuid "${root_hash:32:32}") root.hash
m2mvpn-root-b $root_size $type_root $(derived_uuid part-root-b)
m2mvpn-hash-b $hash_size $type_hash $(derived_uuid part-hash-b)
m2mvpn-data $data_size $type_data $(derived_uuid part-data) data.ext4
TEXT
    {
        echo "label: gpt"
        echo "label-id: $(derived_uuid disk)"
        echo "unit: sectors"
        while read -r name size type uuid content; do
            echo "start=$((start * 2048)), size=$((size * 2048)), type=$type, uuid=$uuid, name=$name"
            [ -z "$content" ] ||
                dd if="$work/$content" of="$disk" bs=1M seek=$start conv=notrunc,sparse status=none
            start=$((start + size))
        done <"$work/partitions"
    } >"$work/table"
    in_tools bash -c "sfdisk --quiet --no-tell-kernel --no-reread $inside/m2mvpn.img <$inside/table >/dev/null"
}

# What the image was made of: packages with the kB that they take in the root, and the programs.
write_manifest() {
    local bin=$1 program
    {
        echo "version $version"
        echo "kernel $kernel_version"
        for program in vpnd vpnctl m2m-first-boot; do
            echo "program $program sha256:$(sha256sum <"$bin/$program" | cut -c 1-64)"
        done
        (cd "$work/root" && find . ! -type d -printf '%P %s\n') |
            awk -v dropped="$dropped" '
                BEGIN { n = split(dropped, list, "\n"); for (i = 1; i <= n; i++) skip[list[i]] }
                FILENAME == ARGV[1] { version[$1] = $2; next }
                FILENAME == ARGV[2] { sub(/\.ko\.xz$/, ".ko", $2); if (!($1 in skip)) owner[$2] = $1; next }
                { sum[$1 in owner ? owner[$1] : "m2mvpn"] += $2 }
                END {
                    version["m2mvpn"] = "'"$version"'"
                    for (name in version) if (!(name in skip)) printf "package %s %s %d\n", name, version[name], (sum[name] + 1023) / 1024
                }' "$base/packages" "$base/files" - | LC_ALL=C sort
    } >"$work/m2mvpn.manifest"
}

write_sizes() {
    cat >"$work/m2mvpn.json" <<TEXT
{
"version": "$version",
"root_hash": "$root_hash",
"root_compressed": $root_bytes,
"root_uncompressed": $(find "$work/root" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }'),
"kernel_image": $(stat -c %s "$work/uki.efi"),
"initrd": $(stat -c %s "$work/initrd.cpio.zst"),
"disk": $(stat -c %s "$work/m2mvpn.img")
}
TEXT
}

in_tools() { chroot "$tools/root" "$@"; }

depmod_in() { in_tools depmod -b "$1" "$2"; }

# A UUID that depends on the product and $1 only.
derived_uuid() { as_uuid "$(printf 'm2mvpn %s' "$1" | sha256sum | cut -c 1-32)"; }

as_uuid() { echo "${1:0:8}-${1:8:4}-${1:12:4}-${1:16:4}-${1:20:12}"; }
