#!/usr/bin/env bash
#SBATCH --job-name=imagenet-tickets
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --signal=TERM@120
# Tickets of ResNet-50 on ImageNet over two nodes of eight GPUs, then their pools. One launcher a node starts a process
# for each GPU. At the end of its time, or preempted, the job saves, goes back into the queue and goes on where it stopped.
#   sbatch scripts/imagenet_slurm.sh IMAGENET_DIR
# On two hosts without Slurm, start on host0 and host1 (which see the same folders), with --node_rank 0 and 1:
#   cd ImageNet && python ../multiproc.py --nnodes 2 --node_rank 0 --nproc_per_node 8 --master_addr host0 \
#     --master_port 8020 main_imp.py IMAGENET_DIR --arch imagenet_resnet_50 --amp --channels_last
set -euo pipefail
# Stopped by SIGTERM: 75 says Python, and the shell 143 where that was still importing.
trap 'case $? in 75 | 143) scontrol requeue "$SLURM_JOB_ID" ;; esac' EXIT
images=$(realpath "${1:?usage: sbatch scripts/imagenet_slurm.sh IMAGENET_DIR}")
# Slurm runs a copy of this file, so the repository is found from where the job was submitted.
repository=${SLURM_SUBMIT_DIR:?start with sbatch, from the repository}
source "$repository/scripts/python.sh"
cd "$repository/ImageNet"
tickets=checkpoints/rewind_lt/imagenet/imagenet_resnet_50/rewind_epoch_5/seed17
host0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# A tenth of the training images to validate on, 50,000 to recalibrate on and as many to test on are 34 GB decoded. They
# count as the job's memory: --mem=0 above asks for all of a node's, what Slurm gives by itself may be less than they take.
loading=(--cache_gb 40 -j 8)
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since Slurm 22.05 srun does not take it over by itself
everywhere() {
  srun bash -c '"$0" ../multiproc.py --nnodes "$SLURM_NNODES" --node_rank "$SLURM_NODEID" --master_addr "$1" \
    --master_port 8020 --nproc_per_node 8 "${@:2}"' "$python" "$host0" "$@"
}
everywhere main_imp.py "$images" --arch imagenet_resnet_50 --save_dir "$tickets" --amp --channels_last \
  "${loading[@]}"
pools() {
  everywhere Lottery_pools.py --save_dir "$tickets" "$images" --arch imagenet_resnet_50 --bn_images 50000 "${loading[@]}" \
    --interpolate_method "$@"
}
pools Lottery_pools
pools Lottery_pools --interpolation_value_list 0.5
pools interpolate_swa
pools interpolate_ema --EMA_value 0.95
pools linear_inter
