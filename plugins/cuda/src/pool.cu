// Launches pooling.
#include "core/checks.h"
#include "src/launch.h"

namespace bev::cuda {
namespace {

template <typename Value, int Width>
__global__ __launch_bounds__(kPoolThreads) void pool_kernel(PoolArgs args, PoolPlan plan) {
  __shared__ PoolShared<Width> shared;
  pool_block<Value, Width>(args, plan, DeviceBlock(), shared);
}

template <typename Value, int Width> int64_t launch(const PoolArgs &args, cudaStream_t stream) {
  const PoolPlan plan = plan_pool(args.num_intervals, args.num_cells, args.channels, Width);
  if (plan.lane_blocks > 65535) return BEV_CUDA_ERROR_TOO_LARGE;
  const dim3 blocks(plan.pool_blocks + plan.zero_blocks, plan.lane_blocks);
  return launch_kernel(pool_kernel<Value, Width>, blocks, plan.threads, stream, args, plan);
}

} // namespace
} // namespace bev::cuda

extern "C" int64_t bev_cuda_abi_version(void) { return BEV_CUDA_ABI_VERSION; }

extern "C" int64_t bev_cuda_pool(const BevCudaPool *job, void *stream_) {
  using namespace bev::cuda;
  if (const int64_t code = check(job)) return code;
  if (job->num_cells == 0) return 0;
  const PoolArgs args = pool_args(*job);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  const int width = pool_width(*job);
  if (job->dtype == BEV_CUDA_FLOAT32) switch (width) {
    case 4: return launch<float, 4>(args, stream);
    case 2: return launch<float, 2>(args, stream);
    default: return launch<float, 1>(args, stream);
    }
  switch (width) {
  case 8: return launch<Half, 8>(args, stream);
  case 4: return launch<Half, 4>(args, stream);
  case 2: return launch<Half, 2>(args, stream);
  default: return launch<Half, 1>(args, stream);
  }
}
