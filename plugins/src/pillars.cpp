// Statistics of the points in each pillar. One pass over the points into a cache line or two per pillar, which memory is
// asked for in advance, and one pass over the pillars that have points.
#include <cmath>

#include "variants.h"

namespace bev {
namespace {

enum Sum { kCount = 0, kMeanZ, kMaxZ, kMinZ, kMeanIntensity, kMaxIntensity, kMeanX, kMeanY, kSlices };

// Most pillars and slices hold few points, and a logarithm takes longer than all the rest of a point.
constexpr int64_t kKnownCounts = 256;

struct LogCounts {
  float values[kKnownCounts];
  LogCounts() noexcept {
    for (int64_t i = 0; i < kKnownCounts; ++i) values[i] = std::log1p(static_cast<float>(i)) * 0.25f;
  }
};

const LogCounts kLogCounts;

float log_count(float count) {
  return count < kKnownCounts ? kLogCounts.values[static_cast<int64_t>(count)] : std::log1p(count) * 0.25f;
}

// A point that counts.
struct Placed {
  int64_t cell, slice;
  float z, intensity, x, y; // x and y from the middle of the pillar, in cells
};

constexpr int64_t kBatch = 32; // points that are placed before their pillars, by then on the way from memory, are summed up

struct Scales {
  double cell;
  float slice, intensity;
};

bool place(const float *point, const BevPillarGrid &grid, const Scales &scales, Placed &placed) {
  const double row = (static_cast<double>(point[0]) - grid.x_min) * scales.cell;
  const double column = (static_cast<double>(point[1]) - grid.y_min) * scales.cell;
  const float slice = (point[2] - static_cast<float>(grid.z_min)) * scales.slice;
  // Written so that a NaN fails.
  if (!(row >= 0 && row < static_cast<double>(grid.rows) && column >= 0 && column < static_cast<double>(grid.columns) &&
        slice >= 0 && slice < static_cast<float>(grid.slices)))
    return false;
  const int64_t whole_row = static_cast<int64_t>(row), whole_column = static_cast<int64_t>(column);
  const float intensity = point[3] * scales.intensity;
  placed.cell = whole_row * grid.columns + whole_column;
  placed.slice = static_cast<int64_t>(slice);
  placed.z = point[2];
  placed.intensity = intensity > 0 ? (intensity < 1 ? intensity : 1.0f) : 0.0f;
  placed.x = static_cast<float>(row - static_cast<double>(whole_row)) - 0.5f;
  placed.y = static_cast<float>(column - static_cast<double>(whole_column)) - 0.5f;
  return true;
}

void add(const Placed &point, float *sums, float *occupied) {
  if (sums[kCount] == 0) {
    occupied[point.cell] = 1;
    sums[kMaxZ] = sums[kMinZ] = point.z;
  }
  sums[kCount] += 1;
  sums[kMeanZ] += point.z;
  sums[kMaxZ] = point.z > sums[kMaxZ] ? point.z : sums[kMaxZ];
  sums[kMinZ] = point.z < sums[kMinZ] ? point.z : sums[kMinZ];
  sums[kMeanIntensity] += point.intensity;
  sums[kMaxIntensity] = point.intensity > sums[kMaxIntensity] ? point.intensity : sums[kMaxIntensity];
  sums[kMeanX] += point.x;
  sums[kMeanY] += point.y;
  sums[kSlices + point.slice] += 1;
}

void prefetch(const float *address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 1);
#else
  static_cast<void>(address);
#endif
}

} // namespace

int64_t pillars(const PillarJob &job) {
  const BevPillarGrid &grid = *job.grid;
  const int64_t cells = grid.rows * grid.columns, channels = kSlices + grid.slices;
  for (int64_t channel = 0; channel < channels; ++channel) {
    float *plane = job.features + channel * cells;
    for (int64_t i = 0; i < *job.num_touched; ++i) plane[job.touched[i]] = 0;
  }
  const Scales scales{1.0 / grid.cell, static_cast<float>(1.0 / grid.slice_height),
                      static_cast<float>(1.0 / grid.intensity_scale)};
  Placed batch[kBatch];
  for (int64_t first = 0; first < job.num_points; first += kBatch) {
    const int64_t last = first + kBatch < job.num_points ? first + kBatch : job.num_points;
    int64_t placed = 0;
    for (int64_t i = first; i < last; ++i)
      if (place(job.points + i * job.stride, grid, scales, batch[placed]))
        prefetch(job.scratch + batch[placed++].cell * channels);
    for (int64_t i = 0; i < placed; ++i) add(batch[i], job.scratch + batch[i].cell * channels, job.features);
  }
  // In the order of the cells, so that each plane is written from front to back.
  int64_t count = 0;
  for (int64_t cell = 0; cell < cells; ++cell)
    if (job.features[cell] != 0) job.touched[count++] = static_cast<int32_t>(cell);
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
