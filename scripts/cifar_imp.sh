#!/usr/bin/env bash
#SBATCH --job-name=lottery-tickets
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --signal=TERM@120
# Tickets for the paper's CIFAR study. By hand: scripts/cifar_imp.sh. As a Slurm array, from the repository:
#   sbatch --array=0-11 scripts/cifar_imp.sh
# Further arguments go to main_imp.py (--amp, --compile, …). At the end of its time, or preempted, a job saves, goes back
# into the queue and goes on where it stopped.
# Slurm runs a copy of this file, so the repository is found from where the job was submitted.
source "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}/scripts/study.sh"

for combination in "${combinations[@]}"; do
  read -r arch dataset seed <<<"$combination"
  $step "$python" -u main_imp.py --data "$data" --dataset "$dataset" --arch "$arch" --seed "$seed" \
    --prune_type rewind_lt --rewind_epoch 9 --pruning_times 19 "$@"
done
