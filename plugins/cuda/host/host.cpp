// The kernel core on the CPU, thread by thread: tests check the GPU's index arithmetic with it where there is no GPU.
//
// The functions take the structs of cuda_kernels.h with pointers to host memory. `backwards` runs blocks, and the
// threads of a block, in the other direction: on a GPU nobody knows which comes first, and a result that depends on it is
// wrong.
#include "core/checks.h"

namespace {

using namespace bev::cuda;

template <typename Value, int Width> void pool(const PoolArgs &args, bool backwards) {
  const PoolPlan plan = plan_pool(args.num_intervals, args.num_cells, args.channels, Width);
  const int blocks = plan.pool_blocks + plan.zero_blocks;
  for (int i = 0; i < blocks * plan.lane_blocks; ++i) {
    const int at = backwards ? blocks * plan.lane_blocks - 1 - i : i;
    PoolShared<Width> shared;
    __builtin_memset(&shared, 0x7f, sizeof(shared)); // shared memory starts with anything
    const HostBlock block{at % blocks, at / blocks, blocks, plan.threads, backwards};
    pool_block<Value, Width>(args, plan, block, shared);
  }
}

template <typename Value> void images(const ImageArgs &args, int count) {
  const int64_t groups = args.cameras * args.height * args.width / count;
  for (int64_t i = 0; i < groups; ++i) count == 4 ? image_pixels<Value, 4>(args, i) : image_pixels<Value, 1>(args, i);
}

} // namespace

extern "C" {

BEV_CUDA_EXPORT int64_t bev_cuda_host_pool(const BevCudaPool *job, int32_t backwards, int32_t width) {
  if (const int64_t code = check(job)) return code;
  if (job->num_cells == 0) return 0;
  const PoolArgs args = pool_args(*job);
  const int widest = pool_width(*job);
  if (width == 0) width = widest;
  if (width > widest) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->dtype == BEV_CUDA_FLOAT32)
    width == 4   ? pool<float, 4>(args, backwards)
    : width == 2 ? pool<float, 2>(args, backwards)
                 : pool<float, 1>(args, backwards);
  else
    width == 8   ? pool<Half, 8>(args, backwards)
    : width == 4 ? pool<Half, 4>(args, backwards)
    : width == 2 ? pool<Half, 2>(args, backwards)
                 : pool<Half, 1>(args, backwards);
  return width;
}

BEV_CUDA_EXPORT int64_t bev_cuda_host_pillar_features(const BevCudaPillars *job, int32_t backwards) {
  if (const int64_t code = check(job)) return code;
  const PillarArgs args = pillar_args(*job);
  for (int64_t i = 0; i < *args.num_touched; ++i) clear_pillar(args, i);
  *args.num_touched = 0;
  for (int64_t i = 0; i < job->num_points; ++i) add_point(args, backwards ? job->num_points - 1 - i : i);
  for (int64_t i = 0; i < *args.num_touched; ++i) finish_pillar(args, i);
  return 0;
}

BEV_CUDA_EXPORT int64_t bev_cuda_host_pillar_scratch_bytes(int64_t rows, int64_t columns, int64_t slices) {
  return pillar_scratch_bytes(rows, columns, slices);
}

BEV_CUDA_EXPORT int64_t bev_cuda_host_taps(int64_t source, int64_t resized, int64_t offset, int64_t count, int32_t is_row,
                                           BevCudaTap *out) {
  return taps(source, resized, offset, count, is_row != 0, out);
}

BEV_CUDA_EXPORT int64_t bev_cuda_host_images(const BevCudaImages *job) {
  if (const int64_t code = check(job)) return code;
  const ImageArgs args = image_args(*job);
  if (job->dtype == BEV_CUDA_FLOAT32)
    images<float>(args, image_width(*job));
  else if (job->dtype == BEV_CUDA_FLOAT16)
    images<Half>(args, image_width(*job));
  else
    images<uint8_t>(args, image_width(*job));
  return job->cameras;
}

} // extern "C"
