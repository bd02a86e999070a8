#!/usr/bin/env bash
# Sets up .venv where needed and runs the tests:
#
#   bash run_tests.sh [pytest arguments]
#   bash run_tests.sh -n 0 tests/test_solvers.py    one file, in one process
#   bash run_tests.sh -m slow                       the few that take long, which are left out otherwise
#
# pytest's own help, once .venv is there: .venv/bin/python -m pytest --help
# Environment: PYTHON, the interpreter (3.10 or newer) that makes .venv; else python3.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if help_is_asked "$@"; then
    show_help
    exit 0
fi
prepare_environment requirements-dev.txt
cd -- "$root"
exec "$python" -m pytest "$@"
