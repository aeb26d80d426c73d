// Statistics of the points in each pillar, on the GPU.
//
// Many points fall into one pillar in no fixed order, and sums of floats depend on it. So sums are kept as integers: metres,
// intensities and offsets in steps of 2^-20, added with integer atomics. The result is the same to the bit for every order.
// Only pillars that had points in the call before are cleared, and only those with points now are written.
#pragma once

#include "core/portable.h"

namespace bev::cuda {

constexpr int kStatistics = 8;
constexpr double kFixedOne = 1048576.0; // 2^20

struct PillarGrid {
  double x_min, y_min, cell, z_min, slice_height, intensity_scale;
  int64_t rows, columns, slices;
};

// Sums of one pillar. All zero means: no points. The counts of the slices follow in an array of their own.
struct PillarSums {
  long long z, intensity, x, y;                                // in steps of 2^-20
  unsigned int points, highest_z, lowest_z, highest_intensity; // the last three as ordered keys, the lowest inverted
};

struct PillarArgs {
  const float *points; // [num_points][stride]
  int64_t num_points, stride;
  PillarGrid grid;
  float *features;      // [8 + slices][rows * columns]
  PillarSums *sums;     // [rows * columns]
  unsigned int *slices; // [rows * columns][slices]
  int32_t *touched;     // [rows * columns]
  int32_t *num_touched; // one value
};

#if defined(__CUDA_ARCH__)
BEV_HD unsigned int add(unsigned int *target, unsigned int value) { return atomicAdd(target, value); }
BEV_HD int32_t add(int32_t *target, int32_t value) { return atomicAdd(target, value); }
BEV_HD void add(long long *target, long long value) {
  atomicAdd(reinterpret_cast<unsigned long long *>(target), static_cast<unsigned long long>(value));
}
BEV_HD void raise(unsigned int *target, unsigned int value) { atomicMax(target, value); }
BEV_HD unsigned int bits_of(float value) { return __float_as_uint(value); }
BEV_HD float float_of(unsigned int bits) { return __uint_as_float(bits); }
#else
template <typename Value> BEV_HD Value add(Value *target, Value value) {
  const Value before = *target;
  *target += value;
  return before;
}
BEV_HD void raise(unsigned int *target, unsigned int value) { *target = *target < value ? value : *target; }
BEV_HD unsigned int bits_of(float value) {
  unsigned int bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}
BEV_HD float float_of(unsigned int bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif

// Keys that compare as the floats do; 0 is below the key of every number.
BEV_HD unsigned int key_of(float value) {
  const unsigned int bits = bits_of(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
BEV_HD float value_of(unsigned int key) { return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

BEV_HD long long fixed(double value) { return static_cast<long long>(value * kFixedOne + (value < 0 ? -0.5 : 0.5)); }

// Empties what the call before wrote, one touched pillar at a time.
BEV_HD void clear_pillar(const PillarArgs &args, int64_t index) {
  const int64_t cells = args.grid.rows * args.grid.columns, cell = args.touched[index];
  for (int64_t channel = 0; channel < kStatistics + args.grid.slices; ++channel) args.features[channel * cells + cell] = 0;
}

// Adds one point to its pillar. The arithmetic that chooses the pillar and the slice is that of the CPU kernel.
BEV_HD void add_point(const PillarArgs &args, int64_t index) {
  const PillarGrid &grid = args.grid;
  const float *point = args.points + index * args.stride;
  const double inverse = 1.0 / grid.cell;
  const double row = (static_cast<double>(point[0]) - grid.x_min) * inverse;
  const double column = (static_cast<double>(point[1]) - grid.y_min) * inverse;
  const float slice = (point[2] - static_cast<float>(grid.z_min)) * static_cast<float>(1.0 / grid.slice_height);
  // Written so that a NaN fails.
  if (!(row >= 0 && row < static_cast<double>(grid.rows) && column >= 0 && column < static_cast<double>(grid.columns) &&
        slice >= 0 && slice < static_cast<float>(grid.slices)))
    return;
  const int64_t whole_row = static_cast<int64_t>(row), whole_column = static_cast<int64_t>(column);
  const int64_t cell = whole_row * grid.columns + whole_column;
  const float scaled = point[3] * static_cast<float>(1.0 / grid.intensity_scale);
  const float intensity = scaled > 0 ? (scaled < 1 ? scaled : 1.0f) : 0.0f;
  PillarSums *sums = args.sums + cell;
  if (add(&sums->points, 1u) == 0) args.touched[add(args.num_touched, int32_t{1})] = static_cast<int32_t>(cell);
  add(&sums->z, fixed(point[2]));
  add(&sums->intensity, fixed(intensity));
  add(&sums->x, fixed(row - static_cast<double>(whole_row) - 0.5));
  add(&sums->y, fixed(column - static_cast<double>(whole_column) - 0.5));
  raise(&sums->highest_z, key_of(point[2]));
  raise(&sums->lowest_z, ~key_of(point[2]));
  raise(&sums->highest_intensity, key_of(intensity));
  add(args.slices + cell * grid.slices + static_cast<int64_t>(slice), 1u);
}

BEV_HD float mean(long long sum, unsigned int points) {
  return static_cast<float>(static_cast<double>(sum) / (kFixedOne * points));
}

BEV_HD float log_count(unsigned int count) { return log1pf(static_cast<float>(count)) * 0.25f; }

// Writes the features of one touched pillar and empties its sums for the next call.
BEV_HD void finish_pillar(const PillarArgs &args, int64_t index) {
  const int64_t cells = args.grid.rows * args.grid.columns, cell = args.touched[index];
  const PillarSums sums = args.sums[cell];
  float *out = args.features + cell;
  out[0] = log_count(sums.points);
  out[cells] = mean(sums.z, sums.points) * 0.5f;
  out[2 * cells] = value_of(sums.highest_z) * 0.5f;
  out[3 * cells] = value_of(~sums.lowest_z) * 0.5f;
  out[4 * cells] = mean(sums.intensity, sums.points);
  out[5 * cells] = value_of(sums.highest_intensity);
  out[6 * cells] = mean(sums.x, sums.points);
  out[7 * cells] = mean(sums.y, sums.points);
  for (int64_t slice = 0; slice < args.grid.slices; ++slice) {
    unsigned int *count = args.slices + cell * args.grid.slices + slice;
    if (*count) out[(kStatistics + slice) * cells] = log_count(*count);
    *count = 0;
  }
  args.sums[cell] = PillarSums{};
}

} // namespace bev::cuda
