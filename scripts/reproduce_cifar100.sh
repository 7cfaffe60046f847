#!/usr/bin/env bash
# The paper's claims on CIFAR-100: tickets, what each method makes of them, and tables and pictures over several seeds.
# Every command goes on where it was stopped, and so does this script: start it again.
#   scripts/reproduce_cifar100.sh              every network and seed, then the tables
#   scripts/reproduce_cifar100.sh ARCH SEED    tickets and pools of one, on the terminal
# Environment:
#   SCALE      cpu (default): two small networks, a fifth of the images, a short schedule with late rewinding; about
#              two hours a network on two cores
#              gpu: ResNet-18 and VGG-16 on all images
#   DATA       folder of CIFAR-100, or an .npz file that holds it (default: data/)
#   OUT        folder of tickets, pools, logs and tables (default: runs/cifar100/$SCALE)
#   PYTHON     interpreter (default: python)
# A scale is a choice of these, any of which can be set by itself; lists are separated by blanks:
#   ARCHS SEEDS LEVELS EPOCHS EVAL_FREQ IMAGES (0: all) VAL_IMAGES JOBS (studies at the same time)
#   REWIND (epoch whose weights each level starts from) MILESTONES (epochs, N,N, at which the learning rate falls tenfold)
#   IMP_FLAGS POOL_FLAGS (more flags of main_imp.py and of Lottery_pools.py; may be empty)
set -euo pipefail
case ${SCALE:=cpu} in
  cpu)
    : "${ARCHS:=resnet20s vgg16_bn_16}" "${LEVELS:=8}" "${EPOCHS:=48}" "${EVAL_FREQ:=6}" "${IMAGES:=10000}" "${VAL_IMAGES:=2000}"
    : "${JOBS:=3}" "${IMP_FLAGS=--amp --batch_size 64}" "${POOL_FLAGS=--fast}"
    # Rewound late: every level is trained as far as the dense network, for a quarter of its epochs.
    : "${REWIND:=$((EPOCHS * 3 / 4))}" "${MILESTONES:=$((EPOCHS * 7 / 8)),$((EPOCHS * 15 / 16))}"
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a network on each core is faster than each network on all of them
    ;;
  gpu)
    : "${ARCHS:=resnet18 vgg16_bn}" "${LEVELS:=12}" "${EPOCHS:=60}" "${EVAL_FREQ:=1}" "${IMAGES:=0}" "${VAL_IMAGES:=5000}"
    # The paper's schedule, shortened: rewound to the end of the first twentieth.
    : "${REWIND:=$((EPOCHS < 20 ? 1 : EPOCHS / 20))}" "${MILESTONES:=$((EPOCHS / 2)),$((EPOCHS * 3 / 4))}"
    : "${JOBS:=1}" "${IMP_FLAGS=--amp --channels_last --slim}" "${POOL_FLAGS=--amp --channels_last}"
    ;;
  *)
    echo "SCALE=$SCALE: choose cpu or gpu" >&2
    exit 2
    ;;
esac
script=$(realpath "$0")
source "$(dirname "$script")/python.sh"
cd "$(dirname "$script")/.."
data=$(realpath "${DATA:-data}")
mkdir -p "${OUT:=runs/cifar100/$SCALE}"
OUT=$(realpath "$OUT")

# Tickets of one network and seed and their pools.
study() {
  local arch=$1 seed=$2 dataset=cifar100 tickets=$OUT/$1/seed$2
  if [[ $data == *.npz ]]; then dataset=npz; fi
  local rate=0.1
  if [[ $arch == vgg*_bn_16 ]]; then rate=0.02; fi # so narrow a VGG learns next to nothing at the paper's rate
  local network=(--dataset "$dataset" --data "$data" --data_limit "$IMAGES" --val_images "$VAL_IMAGES"
    --arch "$arch" --seed "$seed" --prune_type rewind_lt --rewind_epoch "$REWIND")
  "$python" -u CIFAR/main_imp.py "${network[@]}" --pruning_times "$LEVELS" --epochs "$EPOCHS" --eval_freq "$EVAL_FREQ" \
    --lr "$rate" --decreasing_lr "$MILESTONES" --save_dir "$tickets" $IMP_FLAGS
  pools() { "$python" -u CIFAR/Lottery_pools.py "${network[@]}" --checkpoint "$tickets" $POOL_FLAGS --interpolate_method "$@"; }
  pools Lottery_pools
  pools Lottery_pools --interpolation_value_list 0.5
  pools average_or_soup --denser_num 1
  pools interpolate_swa
  pools interpolate_ema --EMA_value 0.95
  pools recalibrated
  pools ensemble
}

if [ $# -ne 0 ] && [ $# -ne 2 ]; then
  echo "usage: $0 [ARCH SEED]" >&2
  exit 2
fi
if [ $# -eq 2 ]; then
  study "$@"
  exit
fi
export SCALE PYTHON=$python DATA=$data OUT ARCHS LEVELS EPOCHS EVAL_FREQ REWIND MILESTONES IMAGES VAL_IMAGES IMP_FLAGS POOL_FLAGS
for arch in $ARCHS; do
  mkdir -p "$OUT/$arch"
  for seed in ${SEEDS:-41 42 43}; do
    echo "$arch $seed"
  done
done | xargs -P "$JOBS" -L 1 bash -c \
  'echo "$1, seed $2: $OUT/$1/seed$2.log"; "$0" "$@" >>"$OUT/$1/seed$2.log" 2>&1 || { tail -n 1 "$OUT/$1/seed$2.log" >&2; exit 1; }' "$script"

for arch in $ARCHS; do
  "$python" CIFAR/evaluate.py --save_dir "$OUT/$arch" "$OUT/$arch"/seed*/pools/*/pools.json
done
