#!/bin/sh
# Every check of the project, as CI runs it: formatting, lints, tests, documentation, licences.
# Needs Rust as Cargo.toml says; the tests of the shaders need a Vulkan driver, which is installed where
# that is this script's business (Debian or Ubuntu, as root or with CI set). About 35 minutes from
# nothing on 2 cores, most of it compiling.
set -eu
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

has() {
    cargo "$1" --version >/dev/null 2>&1
}

has_vulkan() {
    # One of the two folders is enough.
    for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
        [ -e "$driver" ] && return 0
    done
    return 1
}

install_vulkan() {
    as_root=
    [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get update -qq && $as_root apt-get install -y -qq mesa-vulkan-drivers
}

if [ "$(uname -s)" = Linux ]; then
    if ! has_vulkan && command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || [ -n "${CI:-}" ]; }; then
        step install_vulkan || true
    fi
    if has_vulkan; then
        FULLRANK_REQUIRE_GPU=1
        export FULLRANK_REQUIRE_GPU
    else
        no_gpu="SKIPPED: no Vulkan driver, so no shader was run (apt install mesa-vulkan-drivers)"
        echo "$no_gpu"
    fi
fi

if has fmt; then step cargo fmt --all --check; else echo "SKIPPED: cargo fmt is not installed"; fi
if has clippy; then
    step cargo clippy --release --all-targets -- -D warnings
else
    echo "SKIPPED: cargo clippy is not installed"
fi
step cargo test --release
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps
if has deny; then
    step cargo deny check licenses bans sources
else
    echo "SKIPPED: cargo deny is not installed (cargo install cargo-deny)"
fi
printf '\nall checks passed\n'
[ -z "${no_gpu:-}" ] || echo "$no_gpu"
