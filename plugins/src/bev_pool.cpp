// Pooling: one pass over the intervals, channels held in registers.
#include "variants.h"

namespace bev::BEV_VARIANT {
namespace {

constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

// Sums of many equal terms drift by one rounding per term; adding up runs of this length first bounds the drift by
// (run + length / run) roundings, below 1e-5 for intervals of up to 6000 points.
constexpr int64_t kRun = 64;

// Adds up `Count * width` channels of one interval; a Value is 8 channels or one.
template <typename Value, int Count>
inline void pool_channels(const PoolJob &job, int64_t begin, int64_t end, int64_t channel, float *out) {
  constexpr int kWidth = sizeof(Value) / sizeof(float);
  const int32_t *ranks_depth = job.table->ranks_depth;
  const int32_t *ranks_feat = job.table->ranks_feat;
  for (int64_t run = begin; run < end; run += kRun) {
    const int64_t stop = end - run < kRun ? end : run + kRun;
    Value sums[Count] = {};
    for (int64_t point = run; point < stop; ++point) {
      const float weight = job.depth[ranks_depth[point]];
      const float *feat = job.feat + ranks_feat[point] * job.channels + channel;
#pragma GCC unroll 16
      for (int i = 0; i < Count; ++i) {
        Value values;
        __builtin_memcpy(&values, feat + i * kWidth, sizeof(values));
        sums[i] += values * weight;
      }
    }
    if (run != begin) {
      Value before[Count];
      __builtin_memcpy(before, out + channel, sizeof(before));
#pragma GCC unroll 16
      for (int i = 0; i < Count; ++i) sums[i] += before[i];
    }
    __builtin_memcpy(out + channel, sums, sizeof(sums));
  }
}

template <int Vectors>
inline void pool_lanes(const PoolJob &job, int64_t begin, int64_t end, int64_t channel, float *out) {
  pool_channels<Lanes, Vectors>(job, begin, end, channel, out);
}

template <int Channels>
inline void pool_few(const PoolJob &job, int64_t begin, int64_t end, int64_t channel, float *out) {
  pool_channels<float, Channels>(job, begin, end, channel, out);
}

inline void pool_interval(const PoolJob &job, int64_t begin, int64_t end, float *out) {
  int64_t channel = 0;
  for (; job.channels - channel >= 80; channel += 80) pool_lanes<10>(job, begin, end, channel, out);
  for (; job.channels - channel >= 64; channel += 64) pool_lanes<8>(job, begin, end, channel, out);
  for (; job.channels - channel >= 32; channel += 32) pool_lanes<4>(job, begin, end, channel, out);
  for (; job.channels - channel >= 8; channel += 8) pool_lanes<1>(job, begin, end, channel, out);
  switch (job.channels - channel) {
  case 1: return pool_few<1>(job, begin, end, channel, out);
  case 2: return pool_few<2>(job, begin, end, channel, out);
  case 3: return pool_few<3>(job, begin, end, channel, out);
  case 4: return pool_few<4>(job, begin, end, channel, out);
  case 5: return pool_few<5>(job, begin, end, channel, out);
  case 6: return pool_few<6>(job, begin, end, channel, out);
  case 7: return pool_few<7>(job, begin, end, channel, out);
  default: return;
  }
}

} // namespace

void pool(const PoolJob &job, int64_t first_interval, int64_t last_interval, int64_t first_cell, int64_t last_cell) {
  const BevTable &table = *job.table;
  int64_t cell = first_cell;
  for (int64_t interval = first_interval; interval < last_interval; ++interval) {
    const int64_t begin = table.interval_starts[interval];
    const int64_t target = table.ranks_bev[begin];
    __builtin_memset(job.out + cell * job.channels, 0, (target - cell) * job.channels * sizeof(float));
    pool_interval(job, begin, begin + table.interval_lengths[interval], job.out + target * job.channels);
    cell = target + 1;
  }
  __builtin_memset(job.out + cell * job.channels, 0, (last_cell - cell) * job.channels * sizeof(float));
}

} // namespace bev::BEV_VARIANT
