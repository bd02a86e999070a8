#!/usr/bin/env bash
# A DEQ-TrellisNet on Penn Treebank, its words or its characters (bash get_data.sh ptb ptb_char):
#
#   bash run_ptb_deq_trellisnet.sh train [words|chars] [more flags]
#   bash run_ptb_deq_trellisnet.sh eval [words|chars] --load FILE.pkl [more flags]
#   bash run_ptb_deq_trellisnet.sh train --restart --restart_dir FOLDER [more flags]    goes on with a run
#   bash run_ptb_deq_trellisnet.sh eval --restart_dir FOLDER [more flags]               evaluates it
#   bash run_ptb_deq_trellisnet.sh train --help                                         lists all flags
#
# Widths, dropouts, optimizer, batch and regularisation of the TrellisNets that were published on it: for words 24.2 M
# parameters, 20.2 M in the convolutions (as an equilibrium 57.1 perplexity), for characters 14.5 M. Not published, and
# this project's own: the solver's thresholds, the stages, --max_step, when averaging and annealing begin. Words it is
# where neither is named. Flags given here come after these settings and so take their place. With --restart_dir they
# are left out: a run has its settings. Uses .venv/bin/python where it exists, else $PYTHON or python3, which needs
# PyTorch. Paths in the flags are relative to the caller's folder.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

settings=(
    --ksize 2
    --solver broyden --stop_mode rel --f_thres 45 --b_thres 45
    --multi_gpu
)
of_words=(
    --data "$root/data/penn" --dataset ptb
    --d_embed 400 --nhid 1000 --nout 400 --n_layer 55 --eval_n_layer 55
    --wnorm --dropout 0.45 --dropouti 0.45 --dropouth 0.28 --wdrop 0.5 --emb_dropout 0.1 --alpha 2 --beta 1
    --optim SGD --asgd --lr 20 --scheduler constant --clip 0.225 --weight_decay 1.2e-6
    --batch_size 16 --seq_len 110 --eval_tgt_len 110
    --pretrain_steps 15000 --eval-interval 528 --max_step 150000
)
of_chars=(
    --data "$root/data/penn_char" --dataset ptb_char
    --d_embed 200 --nhid 1050 --nout 200 --n_layer 40 --eval_n_layer 40
    --wnorm --dropout 0.1 --dropouti 0.1 --dropouth 0.29 --wdrop 0.26
    --optim Adam --lr 0.002 --scheduler constant --anneal 5 --clip 0.2
    --batch_size 24 --seq_len 150 --eval_tgt_len 150
    --pretrain_steps 20000 --eval-interval 1400 --max_step 150000
)
settings_of_eval=(--pretrain_steps 0)

case ${2:-} in
chars) settings+=("${of_chars[@]}") && set -- "$1" "${@:3}" ;;
words) settings+=("${of_words[@]}") && set -- "$1" "${@:3}" ;;
"" | -*) settings+=("${of_words[@]}") ;;
*) [[ $1 != train && $1 != eval ]] || stop "the second argument is \"$2\": pass words or chars, or flags" ;;
esac
train_or_eval train_trellisnet.py "$@"
