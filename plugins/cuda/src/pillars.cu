// Launches the pillar statistics: clear what the last call wrote, add up the points, write the pillars with points.
#include "core/checks.h"
#include "src/launch.h"

namespace bev::cuda {
namespace {

constexpr int kStrideBlocks = 512; // for loops whose length only the device knows

template <void (*Body)(const PillarArgs &, int64_t)> __device__ __forceinline__ void for_touched(const PillarArgs &args) {
  const int64_t count = *args.num_touched;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    Body(args, i);
}

__global__ void clear_kernel(PillarArgs args) { for_touched<clear_pillar>(args); }
__global__ void finish_kernel(PillarArgs args) { for_touched<finish_pillar>(args); }

__global__ void points_kernel(PillarArgs args) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index < args.num_points) add_point(args, index);
}

} // namespace
} // namespace bev::cuda

extern "C" int64_t bev_cuda_pillar_scratch_bytes(int64_t rows, int64_t columns, int64_t slices) {
  return bev::cuda::pillar_scratch_bytes(rows, columns, slices);
}

extern "C" int64_t bev_cuda_pillar_features(const BevCudaPillars *job, void *stream_) {
  using namespace bev::cuda;
  if (const int64_t code = check(job)) return code;
  const PillarArgs args = pillar_args(*job);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  const dim3 stride_blocks(static_cast<unsigned>(least(kStrideBlocks, ceil_div(job->rows * job->columns, kThreads))));
  const dim3 point_blocks(static_cast<unsigned>(ceil_div(job->num_points, kThreads)));
  if (const int64_t code = launch_kernel(clear_kernel, stride_blocks, kThreads, stream, args)) return code;
  const cudaError_t error = cudaMemsetAsync(args.num_touched, 0, sizeof(int32_t), stream);
  if (error != cudaSuccess) return BEV_CUDA_ERROR_RUNTIME - static_cast<int64_t>(error);
  if (job->num_points > 0)
    if (const int64_t code = launch_kernel(points_kernel, point_blocks, kThreads, stream, args)) return code;
  return launch_kernel(finish_kernel, stride_blocks, kThreads, stream, args);
}
