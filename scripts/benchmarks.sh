#!/usr/bin/env bash
# How fast this is on your machine: training and search against the published protocol, ways to run the trials of a
# candidate, and how time and memory grow. Tables go to OUT; what is there already is not measured again.
#   DATA       .npz file of 32×32 images, CIFAR-100 for the figures of benchmarks/results (default: data/cifar100.npz)
#   DEVICE     cpu or cuda (default: cpu)
#   OUT        folder of the tables and of the tickets that are searched (default: runs/benchmarks/$DEVICE)
#   PYTHON     interpreter (default: python)
# A device has a size that suits it, any part of which can be set by itself:
#   ARCH IMAGES (of training and validation) VAL_IMAGES EPOCHS (of the training that is timed, and of each ticket) LEVELS
#   ROUNDS (how often each side takes its turn)
set -euo pipefail
source "$(dirname "$0")/python.sh"
cd "$(dirname "$0")/.."
case ${DEVICE:=cpu} in
  cpu*)
    : "${ARCH:=resnet20s}" "${IMAGES:=5000}" "${VAL_IMAGES:=500}" "${EPOCHS:=4}" "${LEVELS:=3}" "${ROUNDS:=3}"
    ways=(plain stacked folded compiled compiled-folded)
    ;;
  cuda*)
    : "${ARCH:=resnet18}" "${IMAGES:=50000}" "${VAL_IMAGES:=5000}" "${EPOCHS:=3}" "${LEVELS:=3}" "${ROUNDS:=2}"
    ways=(plain stacked folded compiled compiled-folded graph graph-stacked graph-folded)
    ;;
  *)
    echo "DEVICE=$DEVICE: choose cpu, cuda or cuda:N" >&2
    exit 2
    ;;
esac
data=$(realpath "${DATA:-data/cifar100.npz}")
mkdir -p "${OUT:=runs/benchmarks/$DEVICE}"
out=$(realpath "$OUT")

# A benchmark of this name, unless its table is there.
measure() {
  local name=$1
  shift
  if [ -e "$out/$name.json" ]; then
    echo "$out/$name.md is there already"
  else
    "$python" -u "benchmarks/$name.py" --arch "$ARCH" --device "$DEVICE" --rounds "$ROUNDS" --out "$out" "$@"
  fi
}

images=(--data "$data" --val_images "$VAL_IMAGES")
"$python" -u CIFAR/main_imp.py --dataset npz "${images[@]}" --data_limit "$IMAGES" --arch "$ARCH" --device "$DEVICE" \
  --epochs "$EPOCHS" --decreasing_lr "$((EPOCHS * 3 / 4))" --rewind_epoch 1 --pruning_times "$LEVELS" --amp \
  --save_dir "$out/tickets"
train=(train "${images[@]}" --images "$IMAGES" --epochs "$EPOCHS")
search=(search "${images[@]}" --images "$IMAGES" --tickets "$out/tickets" --levels 1 --search_num 2)
measure "${train[@]}" --variants defaults channels-last amp amp-channels-last amp-compile
measure "${search[@]}" --variants defaults amp fast fast-compile
measure growth
# Last what torch may refuse: if it does, all else is done.
status=0
measure forward --amp --rounds 7 --ways "${ways[@]}" || status=$?
if [[ $DEVICE == cuda* ]]; then
  out=$out/graphs
  measure "${train[@]}" --variants amp-channels-last amp-graphs || status=$?
  measure "${search[@]}" --variants fast fast-graphs || status=$?
fi
exit $status
