#!/bin/sh
# Every check of the project, as CI runs it: formatting, lints, tests, documentation, licences.
# Needs Rust as Cargo.toml says, and nothing else. About 25 minutes from nothing on 2 cores, most of it
# compiling.
set -eu
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

has() {
    cargo "$1" --version >/dev/null 2>&1
}

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
