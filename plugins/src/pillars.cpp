// Statistics of the points in each pillar. One pass over the points into a cache line or two per pillar, which memory is
// asked for in advance, and one pass over the lines of 16 pillars that hold points now or held some after the last call.
// Every variant computes the same bits: it adds in the order of the points, and this file is compiled without contraction.
#include "pillars.h"

namespace bev::BEV_VARIANT {
namespace {

// A point that counts.
struct Placed {
  int64_t cell, slice;
  float z, intensity, x, y; // x and y from the middle of the pillar, in cells
};

constexpr int64_t kBatch = 32; // points that are placed before their pillars, by then on the way from memory, are summed up

inline bool place(const float *point, const BevPillarGrid &grid, const PillarScales &scales, Placed &placed) {
  const double row = (static_cast<double>(point[0]) - grid.x_min) * scales.cell;
  const double column = (static_cast<double>(point[1]) - grid.y_min) * scales.cell;
  const float slice = (point[2] - scales.z_min) * scales.slice;
  // Written so that a NaN fails.
  if (!(row >= 0 && row < static_cast<double>(grid.rows) && column >= 0 && column < static_cast<double>(grid.columns) &&
        slice >= 0 && slice < static_cast<float>(grid.slices)))
    return false;
  const int32_t whole_row = static_cast<int32_t>(row), whole_column = static_cast<int32_t>(column);
  const float intensity = point[3] * scales.intensity;
  placed.cell = static_cast<int64_t>(whole_row) * grid.columns + whole_column;
  placed.slice = static_cast<int32_t>(slice);
  placed.z = point[2];
  placed.intensity = intensity > 0 ? (intensity < 1 ? intensity : 1.0f) : 0.0f;
  placed.x = static_cast<float>(row - static_cast<double>(whole_row)) - 0.5f;
  placed.y = static_cast<float>(column - static_cast<double>(whole_column)) - 0.5f;
  return true;
}

inline void raise_to(uint32_t key, float *sum) {
  uint32_t held;
  __builtin_memcpy(&held, sum, sizeof(held));
  held = key > held ? key : held;
  __builtin_memcpy(sum, &held, sizeof(held));
}

inline void add(const Placed &point, float *sums) {
  const uint32_t key = height_key(point.z);
  sums[kCount] += 1;
  sums[kMeanZ] += point.z;
  raise_to(key, sums + kMaxZ);
  raise_to(~key, sums + kMinZ);
  sums[kMeanIntensity] += point.intensity;
  sums[kMaxIntensity] = point.intensity > sums[kMaxIntensity] ? point.intensity : sums[kMaxIntensity];
  sums[kMeanX] += point.x;
  sums[kMeanY] += point.y;
  sums[kSlices + point.slice] += 1;
}

void add_points(const PillarJob &job, const PillarScales &scales) {
  const int64_t channels = kSlices + job.grid->slices;
  Placed batch[kBatch];
  for (int64_t first = 0; first < job.num_points; first += kBatch) {
    const int64_t last = first + kBatch < job.num_points ? first + kBatch : job.num_points;
    int64_t placed = 0;
    for (int64_t i = first; i < last; ++i)
      if (place(job.points + i * job.stride, *job.grid, scales, batch[placed]))
        __builtin_prefetch(job.scratch + batch[placed++].cell * channels, 1);
    for (int64_t i = 0; i < placed; ++i) {
      use(job.lines, static_cast<uint64_t>(batch[i].cell));
      add(batch[i], job.scratch + batch[i].cell * channels);
    }
  }
}

float log_count(const PillarJob &job, float count) {
  return count < kKnownCounts ? job.log_counts[static_cast<int32_t>(count)] : job.log_count(count);
}

// One pillar's features, `kLine` floats from channel to channel.
void finish_pillar(const PillarJob &job, const float *sums, float *out) {
  uint32_t highest, lowest;
  __builtin_memcpy(&highest, sums + kMaxZ, sizeof(highest));
  __builtin_memcpy(&lowest, sums + kMinZ, sizeof(lowest));
  const float inverse = 1.0f / sums[kCount];
  out[kCount * kLine] = log_count(job, sums[kCount]);
  out[kMeanZ * kLine] = sums[kMeanZ] * inverse * 0.5f;
  out[kMaxZ * kLine] = height_of(highest) * 0.5f;
  out[kMinZ * kLine] = height_of(~lowest) * 0.5f;
  out[kMeanIntensity * kLine] = sums[kMeanIntensity] * inverse;
  out[kMaxIntensity * kLine] = sums[kMaxIntensity];
  out[kMeanX * kLine] = sums[kMeanX] * inverse;
  out[kMeanY * kLine] = sums[kMeanY] * inverse;
  for (int64_t slice = 0; slice < job.grid->slices; ++slice)
    out[(kSlices + slice) * kLine] = log_count(job, sums[kSlices + slice]);
}

// Writes `width` pillars from `first` in every plane, and clears their sums. `used`: a bit for each that has points.
void finish_line(const PillarJob &job, int64_t first, int64_t width, uint32_t used) {
  const int64_t channels = kSlices + job.grid->slices, cells = job.grid->rows * job.grid->columns;
  float tile[(kSlices + kMaxSlices) * kLine];
  __builtin_memset(tile, 0, channels * kLine * sizeof(float));
  for (; used; used &= used - 1) {
    const int at = __builtin_ctz(used);
    float *sums = job.scratch + (first + at) * channels;
    finish_pillar(job, sums, tile + at);
    __builtin_memset(sums, 0, channels * sizeof(float));
  }
  for (int64_t channel = 0; channel < channels; ++channel)
    __builtin_memcpy(job.features + channel * cells + first, tile + channel * kLine, width * sizeof(float));
}

void clear_line(const PillarJob &job, int64_t first, int64_t width) {
  const int64_t channels = kSlices + job.grid->slices, cells = job.grid->rows * job.grid->columns;
  for (int64_t channel = 0; channel < channels; ++channel)
    __builtin_memset(job.features + channel * cells + first, 0, width * sizeof(float));
}

} // namespace

int64_t pillars(const PillarJob &job) {
  const BevPillarGrid &grid = *job.grid;
  const PillarScales scales{1.0 / grid.cell, static_cast<float>(1.0 / grid.slice_height),
                            static_cast<float>(1.0 / grid.intensity_scale), static_cast<float>(grid.z_min)};
  const int64_t channels = kSlices + grid.slices, cells = grid.rows * grid.columns;
  const bool wide = kHaveWide && channels == kLine;
  if (wide)
    add_points_wide(job, scales);
  else
    add_points(job, scales);
  int64_t count = 0;
  for (int64_t first = 0; first < cells; first += kLine) {
    uint32_t &line = job.lines[first / kLine];
    if (line == 0) continue;
    const int64_t width = cells - first < kLine ? cells - first : kLine;
    const uint32_t used = line & kUsedNow;
    if (used == 0)
      clear_line(job, first, width);
    else if (wide && width == kLine)
      finish_line_wide(job, first, used);
    else
      finish_line(job, first, width, used);
    line = used ? kHeld : 0;
    count += __builtin_popcount(used);
  }
  return count;
}

} // namespace bev::BEV_VARIANT
