# The commands of CONTRIBUTING.md, for those who have 'just'.

export SQLX_OFFLINE := "true"

# List the commands.
default:
    @just --list

# Format, lint, and check the crate graph.
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo build --locked --workspace
    target/debug/xtask check

# Run the tests that need no lab; 'just test -p meshwright-store' runs one crate's.
test *arguments="--workspace":
    cargo test --locked {{arguments}}

# Start a hosting cluster and two user clusters, and look around.
lab:
    deploy/quickstart

# Regenerate what is generated and committed.
fresh:
    cargo build --locked --workspace
    target/debug/xtask fresh --write

# Run everything that CI runs.
all:
    tests/run
