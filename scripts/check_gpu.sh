#!/usr/bin/env bash
# Builds the CUDA kernels and the TensorRT plugin for this machine's GPU, tests them on it, and measures.
#
#   make gpu            all of it: logs, figures and a summary in gpu_out/
#   QUICK=1 make gpu    one geometry of the benchmark instead of all
#
# Needs a CUDA toolkit (nvcc) and a driver. A step that fails does not stop those after it; the exit status is 1 then.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${OUT:-gpu_out}
build=build/cuda

if ! nvidia-smi --list-gpus >/dev/null 2>&1; then
  echo "no CUDA device: nvidia-smi finds none. Nothing was built, tested or measured." >&2
  exit 1
fi
command -v nvcc >/dev/null || { echo "nvcc is not on PATH: install a CUDA toolkit, or add its bin folder" >&2; exit 1; }

mkdir -p "$out"
summary="$out/summary.txt"
nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv | tee "$summary"
nvcc --version | tee -a "$summary"
cuda=$(sed -n 's/.*release \([0-9]*\)\..*/\1/p' "$summary")
git rev-parse --short HEAD 2>/dev/null | tee -a "$summary"

step() { # step NAME COMMAND...: its output goes to NAME.log, its last line and seconds to the summary
  local name=$1 started=$SECONDS
  shift
  if "$@" >"$out/$name.log" 2>&1; then
    echo "ok      $name, $((SECONDS - started)) s: $(tail -n 1 "$out/$name.log" | cut -c 1-160)"
  else
    echo "FAILED  $name, $((SECONDS - started)) s: see $out/$name.log"
  fi | tee -a "$summary"
}

figures() { # figures NAME COMMAND...: as a step, and its standard output is the file NAME.json
  local name=$1
  shift
  step "$name" bash -c '"${@:2}" >"$1"' _ "$out/$name.json" "$@"
}

step configure cmake -S plugins -B "$build" -DCMAKE_BUILD_TYPE=Release -DBEV_RUNTIME_TENSORRT=ON -DCMAKE_CUDA_ARCHITECTURES=native
step build cmake --build "$build" --parallel --target bev_runtime_cuda bev_runtime_tensorrt
native=$("$python" -c 'import bev_runtime; print(bev_runtime.__path__[0])')/_native
step install cmake --install "$build" --component gpu --prefix "$native"
step packages "$python" -m pip install --quiet --editable '.[test,sim,view,train,tensorrt_rtx]' "cupy-cuda${cuda}x"
step peers "$python" -m pip install --quiet conch-triton-kernels
step tests "$python" -m pytest tests/gpu
step tests_marked_gpu "$python" -m pytest -m gpu tests --ignore tests/gpu
quick=(${QUICK:+--quick})
figures bev_pool "$python" tests/bench/bench_bev_pool_gpu.py "${quick[@]}" --plot "$out/bev_pool.png"
figures replay_cpu "$python" tests/bench/bench_replay.py --model metabev_tiny --frames 150
figures replay_gpu "$python" tests/bench/bench_replay.py --model metabev_tiny --frames 150 --backend tensorrt_rtx

echo "all of it is in $out/"
! grep -q '^FAILED' "$summary"
