#!/usr/bin/env bash
# Lottery Pools from nothing, in minutes on two CPU cores: six tickets of a small network on handwritten digits, the
# paper's methods on them, one table and pictures. Run it again and it goes on where it stopped.
#   PYTHON   interpreter (default: python)
#   OUT      folder of tickets and pools (default: runs/quickstart)
set -euo pipefail
source "$(dirname "$0")/python.sh"
cd "$(dirname "$0")/.."
out=$("$python" -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' "${OUT:-runs/quickstart}")
images=(--dataset digits --val_images 300 --arch resnet20s --batch_size 64)

cd CIFAR
"$python" -u main_imp.py "${images[@]}" --prune_type rewind_lt --rewind_epoch 1 --pruning_times 6 \
  --epochs 6 --decreasing_lr 5 --save_dir "$out"

pools() { "$python" -u Lottery_pools.py "${images[@]}" --checkpoint "$out" --rewind_epoch 1 "$@"; }
pools --interpolate_method Lottery_pools
pools --interpolate_method Lottery_pools --interpolation_value_list 0.5
pools --interpolate_method interpolate_swa
pools --interpolate_method interpolate_ema --EMA_value 0.95
pools --interpolate_method linear_inter

echo
"$python" evaluate.py "$out"/pools/{Lottery_pools,Lottery_pools_0.5,interpolate_swa,interpolate_ema_0.95} --save_dir "$out"
