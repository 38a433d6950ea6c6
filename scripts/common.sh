# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# Sourced by the other scripts; bash.  Defines:
#   say, die        one line to the user, prefixed with the script's name
#   quietly         run a command, its output shown only if it fails
#   prepare_build   dependencies, autogen, configure and make in a build folder

me=scripts/$(basename "$0")
srcdir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() {
    echo "$me: $*"
}

die() {
    echo "$me: $*" >&2
    exit 1
}

# quietly LOG COMMAND...
quietly() {
    local log=$1
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        echo "--- $* failed; its output was:" >&2
        cat "$log" >&2
        echo "---" >&2
        return 1
    fi
}

# prepare_build BUILDDIR CONFIGURE-ARGUMENT...
prepare_build() {
    local builddir
    builddir=$(realpath -m "$1")
    shift
    # A run as root in somebody else's checkout leaves nothing there they cannot delete.
    if [ "$(id -u)" -eq 0 ] && [ "$(stat -c %u "$srcdir")" -ne 0 ]; then
        trap 'chown -hR --from=root --reference="$srcdir" "$srcdir" 2>/dev/null || :' EXIT
    fi
    "$srcdir/scripts/deps"
    if [ -n "${SECTIONFS_DEPS_PREFIX-}" ]; then
        set -- --with-fuse-prefix="$SECTIONFS_DEPS_PREFIX" "$@"
    fi
    mkdir -p "$builddir"
    if [ -e "$srcdir/config.status" ]; then
        say "this tree was configured in place, which rules out a separate build folder: make distclean"
        quietly "$builddir/distclean.log" make -C "$srcdir" distclean
    fi
    if [ ! -x "$srcdir/configure" ] || [ "$srcdir/configure.ac" -nt "$srcdir/configure" ]; then
        say "making ./configure"
        quietly "$builddir/autogen.log" "$srcdir/autogen.sh"
    fi
    say "configuring and building in ${builddir#"$srcdir"/}"
    (
        cd "$builddir" || exit
        # What was asked for, and of which tree: this one may be a copy, build folder and all.
        want="$srcdir: $*"
        if [ ! -e config.status ] || [ "$(cat .configured 2>/dev/null)" != "$want" ]; then
            rm -f .configured
            quietly configure.log "$srcdir/configure" "$@"
            # Objects of other options, or out of another tree, would pass for up to date.
            quietly clean.log make clean
            sed -n '/^  sectionfs [0-9]/,$p' configure.log
            echo "$want" >.configured
        fi
        make --no-print-directory -j"$(nproc)"
    )
}
