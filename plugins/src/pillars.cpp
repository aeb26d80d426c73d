// Statistics of the points in each pillar. One pass over the points into one cache line or two per pillar, one pass over
// the pillars that have points.
#include <cmath>

#include "variants.h"

namespace bev {
namespace {

enum Sum { kCount = 0, kMeanZ, kMaxZ, kMinZ, kMeanIntensity, kMaxIntensity, kMeanX, kMeanY, kSlices };

float log_count(float count) { return std::log1p(count) * 0.25f; }

void add_point(const float *point, const BevPillarGrid &grid, double inverse_cell, float inverse_slice, float inverse_scale,
               float *scratch, int64_t channels, int32_t *touched, int64_t &num_touched) {
  const float z = point[2], above = z - static_cast<float>(grid.z_min);
  const double row = (static_cast<double>(point[0]) - grid.x_min) * inverse_cell;
  const double column = (static_cast<double>(point[1]) - grid.y_min) * inverse_cell;
  const float slice = above * inverse_slice;
  // Written so that a NaN fails.
  if (!(row >= 0 && row < static_cast<double>(grid.rows) && column >= 0 && column < static_cast<double>(grid.columns) &&
        slice >= 0 && slice < static_cast<float>(grid.slices)))
    return;
  const int64_t whole_row = static_cast<int64_t>(row), whole_column = static_cast<int64_t>(column);
  const int64_t cell = whole_row * grid.columns + whole_column;
  float *sums = scratch + cell * channels;
  float intensity = point[3] * inverse_scale;
  intensity = intensity > 0 ? (intensity < 1 ? intensity : 1.0f) : 0.0f;
  if (sums[kCount] == 0) {
    touched[num_touched++] = static_cast<int32_t>(cell);
    sums[kMaxZ] = sums[kMinZ] = z;
  }
  sums[kCount] += 1;
  sums[kMeanZ] += z;
  sums[kMaxZ] = z > sums[kMaxZ] ? z : sums[kMaxZ];
  sums[kMinZ] = z < sums[kMinZ] ? z : sums[kMinZ];
  sums[kMeanIntensity] += intensity;
  sums[kMaxIntensity] = intensity > sums[kMaxIntensity] ? intensity : sums[kMaxIntensity];
  sums[kMeanX] += static_cast<float>(row - static_cast<double>(whole_row)) - 0.5f;
  sums[kMeanY] += static_cast<float>(column - static_cast<double>(whole_column)) - 0.5f;
  sums[kSlices + static_cast<int64_t>(slice)] += 1;
}

} // namespace

int64_t pillars(const PillarJob &job) {
  const BevPillarGrid &grid = *job.grid;
  const int64_t cells = grid.rows * grid.columns, channels = kSlices + grid.slices;
  for (int64_t channel = 0; channel < channels; ++channel) {
    float *plane = job.features + channel * cells;
    for (int64_t i = 0; i < *job.num_touched; ++i) plane[job.touched[i]] = 0;
  }
  int64_t count = 0;
  const double inverse_cell = 1.0 / grid.cell;
  const float inverse_slice = static_cast<float>(1.0 / grid.slice_height);
  const float inverse_scale = static_cast<float>(1.0 / grid.intensity_scale);
  for (int64_t i = 0; i < job.num_points; ++i)
    add_point(job.points + i * job.stride, grid, inverse_cell, inverse_slice, inverse_scale, job.scratch, channels,
              job.touched, count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t cell = job.touched[i];
    float *sums = job.scratch + cell * channels, *out = job.features + cell;
    const float inverse = 1.0f / sums[kCount];
    out[kCount * cells] = log_count(sums[kCount]);
    out[kMeanZ * cells] = sums[kMeanZ] * inverse * 0.5f;
    out[kMaxZ * cells] = sums[kMaxZ] * 0.5f;
    out[kMinZ * cells] = sums[kMinZ] * 0.5f;
    out[kMeanIntensity * cells] = sums[kMeanIntensity] * inverse;
    out[kMaxIntensity * cells] = sums[kMaxIntensity];
    out[kMeanX * cells] = sums[kMeanX] * inverse;
    out[kMeanY * cells] = sums[kMeanY] * inverse;
    for (int64_t slice = 0; slice < grid.slices; ++slice)
      if (sums[kSlices + slice] > 0) out[(kSlices + slice) * cells] = log_count(sums[kSlices + slice]);
    for (int64_t channel = 0; channel < channels; ++channel) sums[channel] = 0;
  }
  *job.num_touched = count;
  return count;
}

} // namespace bev
