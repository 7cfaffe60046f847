#!/usr/bin/env bash
#SBATCH --job-name=lottery-pools
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --signal=TERM@120
# Every method of the paper on the tickets of cifar_imp.sh, and one table and picture for each network, data set and
# seed. By hand: scripts/cifar_pools.sh. As a Slurm array, from the repository: sbatch --array=0-11 scripts/cifar_pools.sh
# Further arguments go to Lottery_pools.py (--bn_images, …). At the end of its time, or preempted, a job goes back
# into the queue and goes on where it stopped.
# Slurm runs a copy of this file, so the repository is found from where the job was submitted.
source "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/scripts/study.sh"

for combination in "${combinations[@]}"; do
  read -r arch dataset seed <<<"$combination"
  tickets=checkpoints/rewind_lt/$dataset/$arch/rewind_epoch_9/seed$seed
  pools() {
    $step "$python" -u Lottery_pools.py --data "$data" --dataset "$dataset" --arch "$arch" --seed "$seed" \
      --rewind_epoch 9 --search_num 19 --checkpoint "$tickets" "$@"
  }
  pools --interpolate_method Lottery_pools "$@"
  pools --interpolate_method Lottery_pools --interpolation_value_list 0.5 "$@"
  pools --interpolate_method interpolate_swa "$@"
  pools --interpolate_method interpolate_ema --EMA_value 0.95 "$@"
  pools --interpolate_method liner_inter "$@"
  "$python" evaluate.py "$tickets"/pools/*/pools.json # flags may have given the folders longer names
done
