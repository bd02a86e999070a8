#!/usr/bin/env bash
# A DEQ-Transformer on Penn Treebank, its words or its characters (bash get_data.sh ptb ptb_char):
#
#   bash run_ptb_deq_transformer.sh train [words|chars] [more flags]
#   bash run_ptb_deq_transformer.sh eval [words|chars] --load FILE.pkl [more flags]
#   bash run_ptb_deq_transformer.sh train --restart --restart_dir FOLDER [more flags]    goes on with a run
#   bash run_ptb_deq_transformer.sh eval --restart_dir FOLDER [more flags]               evaluates it
#   bash run_ptb_deq_transformer.sh train --help                                         lists all flags
#
# The settings are this project's own: none have been published for this model on this corpus. The models are about as
# large as the TrellisNets on it: for words 24.1 M parameters, 20.1 M in injection and cell, and for characters 13.3 M.
# Words it is where neither is named. Flags given here come after these settings and so take their place. With
# --restart_dir they are left out: a run has its settings. Uses .venv/bin/python where it exists, else $PYTHON or
# python3, which needs PyTorch. Paths in the flags are relative to the caller's folder.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

settings=(
    --n_layer 4 --eval_n_layer 4
    --d_embed 400 --d_model 400 --n_head 10 --d_head 40
    --wnorm
    --optim Adam --warmup_step 2000 --pretrain_steps 8000
    --solver broyden --stop_mode rel --f_thres 25 --b_thres 30
    --multi_gpu
)
of_words=(
    --data "$root/data/penn" --dataset ptb
    --d_inner 23500 --dropout 0.4 --dropatt 0.2 --lr 0.00025
    --batch_size 16 --tgt_len 70 --mem_len 70 --eval_tgt_len 70
    --eval-interval 2000 --max_step 60000
)
of_chars=(
    --data "$root/data/penn_char" --dataset ptb_char
    --d_inner 15000 --dropout 0.1 --dropatt 0.0 --lr 0.0005
    --batch_size 24 --tgt_len 150 --mem_len 150 --eval_tgt_len 150
    --eval-interval 4000 --max_step 80000
)
settings_of_eval=(--pretrain_steps 0)

case ${2:-} in
chars) settings+=("${of_chars[@]}") && set -- "$1" "${@:3}" ;;
words) settings+=("${of_words[@]}") && set -- "$1" "${@:3}" ;;
"" | -*) settings+=("${of_words[@]}") ;;
*) [[ $1 != train && $1 != eval ]] || stop "the second argument is \"$2\": pass words or chars, or flags" ;;
esac
train_or_eval train_transformer.py "$@"
