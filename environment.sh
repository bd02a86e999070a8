# Sourced by the run_*.sh scripts beside it: $root, their folder, and what they share.
#
#   help_is_asked "$@"                      whether -h or --help is among the arguments
#   show_help                               prints the comment at the top of the script
#   names_a_run "$@"                        whether --restart_dir is: that run's settings hold, not a script's own
#   refuse_files program.py "$@"            stops where --config or --preset is: the script's own settings would override
#                                           theirs
#   prepare_environment requirements.txt    makes .venv, installs the file into it, sets $python to its interpreter
#   sort_arguments --list "$@"              the whole numbers behind --list go into $numbers, the folder behind --out into
#                                           $out, where they are given, and all else into $further
#   refuse_flags "--flag --flag" "$@"       stops where one of these is, which the script passes itself
#   ask_for_huge_pages                      for PyTorch's memory on a CPU: a published-size update takes up to a tenth less
#                                           time; a THP_MEM_ALLOC_ENABLE that is set already stays
#   train_or_eval program.py "$@"           what the scripts of an experiment do, whose first argument is train or eval:
#                                           calls the program with the flags in settings, for eval with those in
#                                           settings_of_eval behind them, then with the further arguments
#
# What is installed already is not installed again. PYTHON names the interpreter to make .venv with; else the first
# of python3, python3.13 … python3.10 that is new enough.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

stop() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    exit 2
}

help_is_asked() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then return 0; fi
    done
    return 1
}

show_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

names_a_run() { # the flag may be cut short, and its value may follow an equals sign
    local argument flag
    for argument in "$@"; do
        flag=${argument%%=*}
        if [[ $flag == --restart_* && --restart_dir == "$flag"* ]]; then return 0; fi
    done
    return 1
}

refuse_files() { # flags may be cut short; --p, --pr and --pre are no beginnings of --preset alone
    local argument flag program=$root/DEQModel/$1
    shift
    for argument in "$@"; do
        flag=${argument%%=*}
        if [[ $flag == --co* && --config == "$flag"* ]]; then
            stop "--config: this script has settings of its own, which override a file's; call python $program --config FILE"
        elif [[ $flag == --pres* && --preset == "$flag"* ]]; then
            stop "--preset: this script has settings of its own, which override a preset's; call python $program --preset NAME"
        fi
    done
}

in_full() { # flag, then known flags of which it may be a beginning
    local flag=$1 known
    for known in "${@:2}"; do
        if [[ ${#flag} -gt 4 && $known == "$flag"* ]]; then flag=$known; fi
    done
    printf '%s\n' "$flag"
}

refuse_flags() {
    local known=$1 argument flag
    shift
    for argument in "$@"; do
        flag=$(in_full "${argument%%=*}" $known)
        if [[ " $known " == *" $flag "* ]]; then
            stop "$flag: this script has its own; call python DEQModel/train_synthetic.py for one run"
        fi
    done
}

sort_arguments() {
    local list=$1 flag
    shift
    further=()
    while [[ $# -gt 0 ]]; do
        flag=$(in_full "${1%%=*}" "$list" --out)
        if [[ $flag != "$list" && $flag != --out ]]; then
            further+=("$1")
            shift
            continue
        fi
        # the value may follow an equals sign
        if [[ $1 == *=* ]]; then set -- "$flag" "${1#*=}" "${@:2}"; fi
        [[ -n ${2:-} && $2 != --* ]] || stop "$flag needs a value"
        shift
        if [[ $flag == --out ]]; then
            out=$1
            shift
            continue
        fi
        numbers=()
        while [[ $# -gt 0 && $1 != --* ]]; do
            [[ $1 =~ ^[0-9]+$ ]] || stop "$list $1: pass whole numbers"
            numbers+=("$1")
            shift
        done
    done
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        new_enough "$PYTHON" || stop "PYTHON is $PYTHON, which is no Python 3.10 or newer: name another one"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "no Python 3.10 or newer found: install one, or name it with PYTHON=/path/to/python3"
}

prepare_environment() {
    local requirements=$root/$1 venv=$root/.venv stamp base
    python=$venv/bin/python
    stamp=$venv/installed-$1
    # the stamp is a copy of what was installed: it is out of date as soon as a requirement changes
    if new_enough "$python" && cat -- "$root"/requirements*.txt | cmp -s - "$stamp"; then
        return
    fi
    if ! new_enough "$python"; then
        base=$(find_python) || exit
        printf 'making a virtual environment in %s\n' "$venv" >&2
        "$base" -m venv --clear "$venv" || stop "cannot make a virtual environment in $venv (on Debian: apt install python3-venv)"
    fi
    printf 'installing %s (the first time this downloads PyTorch)\n' "$1" >&2
    "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
        stop "cannot install $requirements: see pip's message above"
    cat -- "$root"/requirements*.txt >"$stamp"
}

find_pytorch() { # sets $python: that of .venv where it exists, else $PYTHON or python3
    python=${PYTHON:-python3}
    if [[ -x $root/.venv/bin/python && -z ${PYTHON:-} ]]; then
        python=$root/.venv/bin/python
    fi
}

list_flags() { # program
    "$python" "$1" --help 2>/dev/null && return
    show_help
    printf '\nThe flags are listed by a Python with PyTorch: run bash run_demo.sh once, or install requirements.txt, and\n'
    printf 'call again; or see the settings in DEQModel/config/settings.py.\n'
}

ask_for_huge_pages() { export THP_MEM_ALLOC_ENABLE=${THP_MEM_ALLOC_ENABLE:-1}; }

train_or_eval() {
    local program=$root/DEQModel/$1 command=${2:-}
    shift $(($# < 2 ? $# : 2))
    case $command in
    train) ;;
    eval) settings+=("${settings_of_eval[@]}") ;;
    -h | --help)
        show_help
        exit 0
        ;;
    *) stop "the first argument is \"$command\": pass train or eval, then more flags" ;;
    esac
    find_pytorch
    if help_is_asked "$@"; then
        list_flags "$program"
        exit 0
    fi
    refuse_files "$(basename -- "$program")" "$@"
    [[ $command == train ]] || set -- --eval "$@"
    if ! names_a_run "$@"; then
        # With a GPU the settings run on it; without one they run on the CPU, which takes weeks to train.
        if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
            settings+=(--cuda)
        fi
        set -- "${settings[@]}" "$@"
    fi
    exec "$python" "$program" "$@"
}
