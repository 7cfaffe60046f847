# The paper's CIFAR study: every network, data set and seed. Sourced by cifar_imp.sh and cifar_pools.sh.
#   ARCHS, DATASETS, SEEDS   override the lists, separated by blanks
#   DATA                     folder of the images (default: ../data, as seen from CIFAR/)
#   PYTHON                   interpreter (default: python)
# In a Slurm array (sbatch --array=0-11) each task does the one combination of its number; otherwise all, in turn.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../CIFAR"
# Under Slurm every command is a step: steps hear of the end of a job's time, the shell would keep it to itself. A shell
# that srun has started is a step already, in which another would wait for ever; numbers from 0xfffffff0 on are no srun's.
step=
if [ -n "${SLURM_JOB_ID:-}" ] && [ "${SLURM_STEP_ID:-4294967280}" -ge 4294967280 ]; then step=srun; fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since Slurm 22.05 srun does not take it over by itself
fi
# Stopped by SIGTERM: 75 says Python, and the shell 143 where that was still importing.
trap 'case $? in 75 | 143) if [ -n "${SLURM_JOB_ID:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi ;; esac' EXIT
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
