// What lets the kernel core compile for the GPU and, unchanged, for the CPU that tests its arithmetic.
//
// A kernel body is a function of a `Block`. It never asks for a thread's number: it hands phases to the block, and the
// block runs each phase for all its threads before the next one starts. On the GPU that is a barrier, on the CPU a loop.
#pragma once

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#define BEV_HD __host__ __device__ __forceinline__
namespace bev::cuda {
using Half = __half;
}
#else
#define BEV_HD inline
#if !defined(__FLT16_MAX__)
#error "the CPU build of the kernel core needs _Float16: use g++ 12, clang 15 or later"
#endif
namespace bev::cuda {
using Half = _Float16;
}
#endif

// The CPU's compiler warns about a pragma that it does not know.
#if defined(__CUDA_ARCH__)
#define BEV_UNROLL _Pragma("unroll")
#else
#define BEV_UNROLL
#endif

namespace bev::cuda {

// `Count` values that move as one access; 16 bytes is the widest that a thread has.
template <typename Value, int Count> struct alignas(sizeof(Value) * Count) Pack {
  Value values[Count];
};

BEV_HD float to_float(float value) { return value; }
BEV_HD void store(float value, float &out) { out = value; }
#if defined(__CUDACC__)
BEV_HD float to_float(Half value) { return __half2float(value); }
BEV_HD void store(float value, Half &out) { out = __float2half_rn(value); }
#else
BEV_HD float to_float(Half value) { return static_cast<float>(value); }
BEV_HD void store(float value, Half &out) { out = static_cast<Half>(value); }
#endif
BEV_HD void store(float value, uint8_t &out) { out = static_cast<uint8_t>(value); }

BEV_HD int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
BEV_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__CUDACC__)
// One thread block of a kernel.
struct DeviceBlock {
  int index_x, index_y, count_x;
  __device__ DeviceBlock() : index_x(blockIdx.x), index_y(blockIdx.y), count_x(gridDim.x) {}
  // Runs `phase(thread)` for every thread; memory written in it is visible to the whole block after it.
  template <typename Phase> __device__ __forceinline__ void run(const Phase &phase) const {
    phase(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};
#endif

// The same for the CPU: the threads of a block one after the other, in either direction. Threads of a phase that depend on
// each other give results that differ with the direction.
struct HostBlock {
  int index_x, index_y, count_x, threads;
  bool backwards;
  template <typename Phase> void run(const Phase &phase) const {
    for (int i = 0; i < threads; ++i) phase(backwards ? threads - 1 - i : i);
  }
};

} // namespace bev::cuda
