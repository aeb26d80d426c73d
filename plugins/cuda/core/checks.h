// Argument checks, and the choice of how many values move at once; the same for the GPU and for the CPU build of the core.
#pragma once

#include <initializer_list>

#include "bev_runtime/cuda_kernels.h"
#include "core/images.h"
#include "core/pillars.h"
#include "core/pool.h"

namespace bev::cuda {

inline bool is_int32(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor > INT32_MAX) return false;
    product *= factor;
    if (product > INT32_MAX) return false;
  }
  return true;
}

// 0, or the code of what is wrong.
inline int64_t check(const BevCudaPool *job) {
  if (!job) return BEV_CUDA_ERROR_ARGUMENT;
  for (const int64_t size : {job->num_depth, job->num_feat, job->num_points, job->num_intervals, job->num_cells})
    if (size < 0) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->channels < 1 || (job->dtype != BEV_CUDA_FLOAT32 && job->dtype != BEV_CUDA_FLOAT16))
    return BEV_CUDA_ERROR_ARGUMENT;
  if (job->channels_first != 0 && job->channels_first != 1) return BEV_CUDA_ERROR_ARGUMENT;
  if (!job->out && job->num_cells > 0) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->num_intervals > job->num_cells) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->num_intervals > 0 && (!job->depth || !job->feat || !job->ranks_depth || !job->ranks_feat || !job->ranks_bev ||
                                 !job->interval_starts || !job->interval_lengths))
    return BEV_CUDA_ERROR_ARGUMENT;
  for (const int64_t size : {job->num_depth, job->num_feat, job->num_points, job->num_cells, job->channels})
    if (!is_int32({size})) return BEV_CUDA_ERROR_TOO_LARGE;
  return 0;
}

inline PoolArgs pool_args(const BevCudaPool &job) {
  return {job.depth,
          job.feat,
          job.ranks_depth,
          job.ranks_feat,
          job.ranks_bev,
          job.interval_starts,
          job.interval_lengths,
          job.out,
          job.num_depth,
          job.num_feat,
          job.num_points,
          job.num_intervals,
          job.num_cells,
          job.channels,
          job.channels_first == 1};
}

// Channels per access: as many as divide a row and as the addresses are aligned to, at most 16 bytes.
inline int pool_width(const BevCudaPool &job) {
  const int64_t size = job.dtype == BEV_CUDA_FLOAT32 ? 4 : 2;
  const uintptr_t feat = reinterpret_cast<uintptr_t>(job.feat);
  const uintptr_t out = job.channels_first ? 0 : reinterpret_cast<uintptr_t>(job.out);
  int width = static_cast<int>(16 / size);
  while (width > 1 && (job.channels % width || (feat | out) % (width * size))) width /= 2;
  return width;
}

inline int64_t check(const BevCudaPillars *job) {
  if (!job || !job->features || !job->scratch || !job->touched || !job->num_touched) return BEV_CUDA_ERROR_ARGUMENT;
  if ((!job->points && job->num_points > 0) || job->num_points < 0 || job->stride < 4) return BEV_CUDA_ERROR_ARGUMENT;
  if (!(job->cell > 0 && job->slice_height > 0 && job->intensity_scale > 0)) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->rows < 1 || job->columns < 1 || job->slices < 1 || job->slices > 64) return BEV_CUDA_ERROR_ARGUMENT;
  if (reinterpret_cast<uintptr_t>(job->scratch) % alignof(PillarSums)) return BEV_CUDA_ERROR_ARGUMENT;
  if (!is_int32({job->rows, job->columns, kStatistics + job->slices}) || !is_int32({job->num_points}))
    return BEV_CUDA_ERROR_TOO_LARGE;
  return 0;
}

inline PillarArgs pillar_args(const BevCudaPillars &job) {
  PillarSums *sums = static_cast<PillarSums *>(job.scratch);
  return {
      job.points,
      job.num_points,
      job.stride,
      {job.x_min, job.y_min, job.cell, job.z_min, job.slice_height, job.intensity_scale, job.rows, job.columns, job.slices},
      job.features,
      sums,
      reinterpret_cast<unsigned int *>(sums + job.rows * job.columns),
      job.touched,
      job.num_touched};
}

inline int64_t pillar_scratch_bytes(int64_t rows, int64_t columns, int64_t slices) {
  if (rows < 1 || columns < 1 || slices < 1 || slices > 64) return BEV_CUDA_ERROR_ARGUMENT;
  if (!is_int32({rows, columns, kStatistics + slices})) return BEV_CUDA_ERROR_TOO_LARGE;
  return rows * columns * static_cast<int64_t>(sizeof(PillarSums) + slices * sizeof(unsigned int));
}

inline int64_t check(const BevCudaImages *job) {
  if (!job || job->cameras < 0 || job->height < 1 || job->width < 1) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->dtype < BEV_CUDA_FLOAT32 || job->dtype > BEV_CUDA_UINT8) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->channels_last != 0 && job->channels_last != 1) return BEV_CUDA_ERROR_ARGUMENT;
  if (job->cameras > 0 && (!job->sources || !job->out || (!job->table && job->dtype != BEV_CUDA_UINT8)))
    return BEV_CUDA_ERROR_ARGUMENT;
  if (!is_int32({job->cameras, job->height, job->width, 3})) return BEV_CUDA_ERROR_TOO_LARGE;
  return 0;
}

inline ImageArgs image_args(const BevCudaImages &job) {
  return {
      job.sources,           job.dtype == BEV_CUDA_UINT8 ? nullptr : job.table, job.out, job.cameras, job.height, job.width,
      job.channels_last == 1};
}

// Pixels per access: 4 where rows and the output's start are whole multiples of it.
inline int image_width(const BevCudaImages &job) {
  const int64_t size = job.dtype == BEV_CUDA_FLOAT32 ? 4 : job.dtype == BEV_CUDA_FLOAT16 ? 2 : 1;
  return job.width % 4 == 0 && reinterpret_cast<uintptr_t>(job.out) % (4 * size) == 0 ? 4 : 1;
}

// Taps of one axis. The source of pixel i is (i + 0.5) * scale - 0.5, in float32 as vision libraries have it. Beyond the
// border a column counts alone; a row counts with both weights, which rounds differently: so do those libraries.
inline int64_t taps(int64_t source, int64_t resized, int64_t offset, int64_t count, bool is_row, BevCudaTap *out) {
  if (source < 1 || resized < 1 || offset < 0 || count < 0 || count > resized - offset || (!out && count))
    return BEV_CUDA_ERROR_ARGUMENT;
  if (!is_int32({source}) || !is_int32({resized})) return BEV_CUDA_ERROR_TOO_LARGE;
  const double scale = 1.0 / (static_cast<double>(resized) / static_cast<double>(source));
  for (int64_t i = 0; i < count; ++i) {
    float at = static_cast<float>((static_cast<double>(i + offset) + 0.5) * scale - 0.5);
    const int64_t low = static_cast<int64_t>(floorf(at));
    at -= static_cast<float>(low);
    if (!is_row && (low < 0 || low >= source - 1)) at = 0;
    const auto inside = [&](int64_t pixel) { return static_cast<int32_t>(pixel < 0 ? 0 : least(pixel, source - 1)); };
    out[i].low = inside(low);
    out[i].high = inside(low + 1);
    out[i].low_weight = static_cast<int16_t>(lrintf((1.0f - at) * kWeightOne));
    out[i].high_weight = static_cast<int16_t>(lrintf(at * kWeightOne));
  }
  return 0;
}

} // namespace bev::cuda
