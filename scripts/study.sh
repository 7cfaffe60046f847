# The paper's CIFAR study: every network, data set and seed. Sourced by cifar_imp.sh and cifar_pools.sh.
#   ARCHS, DATASETS, SEEDS   override the lists, separated by blanks
#   DATA                     folder of the images (default: ../data, as seen from CIFAR/)
#   PYTHON                   interpreter (default: python)
# In a Slurm array (sbatch --array=0-11) each task does the one combination of its number; otherwise all, in turn.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../CIFAR"
# Under Slurm every command is a step: steps hear of the end of a job's time, the shell would keep it to itself.
step=${SLURM_JOB_ID:+srun}
trap 'if [ $? -eq 75 ] && [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi' EXIT
data=${DATA:-../data}

combinations=()
for arch in ${ARCHS:-resnet18 vgg16_bn}; do
  for dataset in ${DATASETS:-cifar10 cifar100}; do
    for seed in ${SEEDS:-41 42 43}; do
      combinations+=("$arch $dataset $seed")
    done
  done
done
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  if [ "$SLURM_ARRAY_TASK_ID" -ge "${#combinations[@]}" ]; then
    echo "there are ${#combinations[@]} combinations: sbatch --array=0-$((${#combinations[@]} - 1))" >&2
    exit 2
  fi
  combinations=("${combinations[$SLURM_ARRAY_TASK_ID]}")
fi
