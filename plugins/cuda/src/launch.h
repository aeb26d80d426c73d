// What the launchers share.
#pragma once

#include <cuda_runtime_api.h>

#include "bev_runtime/cuda_kernels.h"
#include "core/portable.h"

namespace bev::cuda {

constexpr int kThreads = 256;

// Enqueues a kernel; gives 0 or the code of the error of this very launch.
template <typename... Args>
int64_t launch_kernel(void (*kernel)(Args...), dim3 blocks, int threads, cudaStream_t stream, Args... args) {
  void *pointers[] = {&args...};
  const cudaError_t error =
      cudaLaunchKernel(reinterpret_cast<const void *>(kernel), blocks, dim3(threads), pointers, 0, stream);
  return error == cudaSuccess ? 0 : BEV_CUDA_ERROR_RUNTIME - static_cast<int64_t>(error);
}

} // namespace bev::cuda
