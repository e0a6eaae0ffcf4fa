# What scripts/image and scripts/package share; sourced, not run. Both take the same static binaries: what one has built the other
# does not build again.

# need COMMAND PACKAGE: gets the package from Debian if the command is missing and this is root.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$0: $1 is missing; install it, for example: sudo apt-get install $2" >&2
        exit 1
    fi
    # The machine's own updates may hold the lock for a while.
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "$2" >/dev/null
}

# static_build TARGET PROFILE: both programs. What is written in C (mimalloc, ring) takes a compiler for musl: Debian's for this
# machine, Zig's (in the PATH as cargo-zigbuild) for another.
static_build() {
    local target=$1 profile=$2
    rustup target add "$target"
    # Without line tables the binaries are a third as large; symbols stay, for perf.
    export "CARGO_PROFILE_${profile^^}_STRIP=debuginfo"
    local arguments=(--locked --profile "$profile" --target "$target" --package ringecho --bin ringecho --package ringload --bin ringload)
    if [ "${target%%-*}" = "$(uname -m)" ]; then
        env "CC_${target//-/_}=musl-gcc" cargo build "${arguments[@]}"
    else
        cargo zigbuild "${arguments[@]}"
    fi
    local program
    for program in ringecho ringload; do
        if readelf --program-headers "$(static_binary "$program" "$target" "$profile")" | grep -q INTERP; then
            echo "$0: $program for $target is not static" >&2
            exit 1
        fi
    done
}

# static_binary PROGRAM TARGET PROFILE: where it is.
static_binary() {
    echo "${CARGO_TARGET_DIR:-target}/$2/$3/$1"
}
