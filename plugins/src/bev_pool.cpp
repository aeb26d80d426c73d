// Pooling: one pass over the intervals, channels held in registers. Storage is float or IEEE half; sums are float.
#include "variants.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace bev::BEV_VARIANT {
namespace {

typedef uint16_t Half; // the bits of an IEEE binary16

typedef float Eight __attribute__((vector_size(32)));
#if defined(__AVX512F__)
typedef float Lanes __attribute__((vector_size(64)));
#else
typedef Eight Lanes;
#endif
constexpr int kLanes = sizeof(Lanes) / sizeof(float);

// Sums of many equal terms drift by one rounding per term; adding up runs of this length first bounds the drift by
// (run + length / run) roundings, below 1e-5 for intervals of up to 6000 points.
constexpr int64_t kRun = 64;

inline float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Exact. The exponent is moved by a multiplication with 2^112, which makes subnormals come out right as well.
inline float widen(Half half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  if (magnitude >= 0x0f800000u) return as_float(sign | magnitude | 0x70000000u); // infinity and NaN
  return as_float(sign | as_bits(as_float(magnitude) * 0x1p112f));
}

inline float widen(float value) { return value; }

// To nearest, ties to even; beyond the range to infinity.
inline Half narrow(float value) {
  const uint32_t bits = as_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<Half>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<Half>(sign | 0x7c00u); // 65520 and above
  if (magnitude < 0x38800000u) // a subnormal half: adding 0.5 leaves its bits at the end of the sum
    return static_cast<Half>(sign | (as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f)));
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<Half>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline void load(const float *from, float &to) { to = *from; }
inline void load(const Half *from, float &to) { to = widen(*from); }
inline void store(float value, float *to) { *to = value; }
inline void store(float value, Half *to) { *to = narrow(value); }

template <typename Value> inline void load(const float *from, Value &to) { __builtin_memcpy(&to, from, sizeof(to)); }
template <typename Value> inline void store(Value value, float *to) { __builtin_memcpy(to, &value, sizeof(value)); }

#if defined(__F16C__)
inline void load(const Half *from, Eight &to) {
  to = (Eight)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline void store(Eight value, Half *to) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}
#if defined(__AVX512F__)
inline void load(const Half *from, Lanes &to) {
  to = (Lanes)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void store(Lanes value, Half *to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}
#endif
#else
inline void load(const Half *from, Eight &to) {
  for (int i = 0; i < 8; ++i) to[i] = widen(from[i]);
}
inline void store(Eight value, Half *to) {
  for (int i = 0; i < 8; ++i) to[i] = narrow(value[i]);
}
#endif

template <typename Storage> struct Typed {
  const Storage *depth, *feat;
  int64_t channels;
  const int32_t *ranks_depth, *ranks_feat;
};

// Adds the points [begin, end) to `Count` Values of channels; a Value is 16 or 8 channels, or one.
template <typename Value, int Count, typename Storage>
inline __attribute__((always_inline)) void add_run(const Typed<Storage> &job, int64_t begin, int64_t end, int64_t channel,
                                                   Value *sums) {
  constexpr int kWidth = sizeof(Value) / sizeof(float);
  for (int64_t point = begin; point < end; ++point) {
    const float weight = widen(job.depth[job.ranks_depth[point]]);
    const Storage *feat = job.feat + job.ranks_feat[point] * job.channels + channel;
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      Value values;
      load(feat + i * kWidth, values);
      sums[i] += values * weight;
    }
  }
}

// The rest of an interval whose first run is in `total`. Not inlined: such intervals are few, and there it takes no registers.
template <typename Value, int Count, typename Storage>
__attribute__((noinline)) void add_further_runs(const Typed<Storage> &job, int64_t begin, int64_t end, int64_t channel,
                                                Value *total) {
  for (int64_t run = begin; run < end; run += kRun) {
    Value sums[Count] = {};
    add_run<Value, Count>(job, run, end - run < kRun ? end : run + kRun, channel, sums);
    for (int i = 0; i < Count; ++i) total[i] += sums[i];
  }
}

template <typename Value, int Count, typename Storage>
inline __attribute__((always_inline)) void pool_channels(const Typed<Storage> &job, int64_t begin, int64_t end,
                                                         int64_t channel, Storage *out) {
  constexpr int kWidth = sizeof(Value) / sizeof(float);
  Value sums[Count] = {};
  if (end - begin <= kRun) {
    add_run<Value, Count>(job, begin, end, channel, sums);
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) store(sums[i], out + channel + i * kWidth);
    return;
  }
  Value total[Count] = {};
  add_further_runs<Value, Count>(job, begin, end, channel, total);
  for (int i = 0; i < Count; ++i) store(total[i], out + channel + i * kWidth);
}

template <typename Storage>
inline void pool_interval(const Typed<Storage> &job, int64_t begin, int64_t end, Storage *out) {
  int64_t channel = 0;
  for (; job.channels - channel >= 80; channel += 80) pool_channels<Lanes, 80 / kLanes>(job, begin, end, channel, out);
  for (; job.channels - channel >= 64; channel += 64) pool_channels<Lanes, 64 / kLanes>(job, begin, end, channel, out);
  for (; job.channels - channel >= 32; channel += 32) pool_channels<Lanes, 32 / kLanes>(job, begin, end, channel, out);
  for (; job.channels - channel >= 8; channel += 8) pool_channels<Eight, 1>(job, begin, end, channel, out);
  switch (job.channels - channel) {
  case 1: return pool_channels<float, 1>(job, begin, end, channel, out);
  case 2: return pool_channels<float, 2>(job, begin, end, channel, out);
  case 3: return pool_channels<float, 3>(job, begin, end, channel, out);
  case 4: return pool_channels<float, 4>(job, begin, end, channel, out);
  case 5: return pool_channels<float, 5>(job, begin, end, channel, out);
  case 6: return pool_channels<float, 6>(job, begin, end, channel, out);
  case 7: return pool_channels<float, 7>(job, begin, end, channel, out);
  default: return;
  }
}

// What pools one interval: the usual channel counts are known to the compiler, which then keeps everything in registers.
template <int Channels> struct Interval {
  template <typename Storage>
  static __attribute__((always_inline)) void pool(const Typed<Storage> &job, int64_t begin, int64_t end, Storage *out) {
    const Typed<Storage> fixed{job.depth, job.feat, Channels, job.ranks_depth, job.ranks_feat};
    pool_channels<Lanes, Channels / kLanes>(fixed, begin, end, 0, out);
  }
};

template <> struct Interval<0> {
  template <typename Storage> static void pool(const Typed<Storage> &job, int64_t begin, int64_t end, Storage *out) {
    pool_interval(job, begin, end, out);
  }
};

// Clears the cells [cell, last), or those of them that hold something where that is known.
template <typename Storage> void clear(const PoolJob &job, Storage *out, int64_t cell, int64_t last) {
  const int64_t row = job.channels * static_cast<int64_t>(sizeof(Storage));
  if (!job.held) {
    __builtin_memset(out + cell * job.channels, 0, (last - cell) * row);
    return;
  }
  for (; cell < last; ++cell) {
    if (!job.held[cell]) continue;
    __builtin_memset(out + cell * job.channels, 0, row);
    job.held[cell] = 0;
  }
}

// Intervals: sums are written to lines that are on their way by then; one or two ahead is too late.
constexpr int64_t kAhead = 8;

template <typename Storage> void ask_for(const Storage *row, int64_t channels) {
  constexpr int64_t kLine = 64 / sizeof(Storage);
  for (int64_t channel = 0; channel < channels; channel += kLine) __builtin_prefetch(row + channel, 1);
}

template <int Channels, typename Storage> void pool_range(const PoolJob &job, const PoolRange &range) {
  const BevTable &table = *job.table;
  const Typed<Storage> typed{static_cast<const Storage *>(job.depth), static_cast<const Storage *>(job.feat), job.channels,
                             table.ranks_depth, table.ranks_feat};
  const int32_t *const starts = table.interval_starts, *const lengths = table.interval_lengths, *const cells = table.interval_cells;
  Storage *const out = static_cast<Storage *>(job.out);
  int64_t cell = range.first_cell;
  for (int64_t interval = range.first_interval; interval < range.last_interval; ++interval) {
    const int64_t begin = starts[interval], target = cells[interval];
    if (cell != target) clear(job, out, cell, target);
    if (job.held) job.held[target] = 1;
    if (interval + kAhead < range.last_interval) ask_for(out + cells[interval + kAhead] * job.channels, job.channels);
    Interval<Channels>::pool(typed, begin, begin + lengths[interval], out + target * job.channels);
    cell = target + 1;
  }
  clear(job, out, cell, range.last_cell);
}

template <typename Storage> void pool_typed(const PoolJob &job, const PoolRange &range) {
  switch (job.channels) {
  case 80: return pool_range<80, Storage>(job, range);
  case 64: return pool_range<64, Storage>(job, range);
  case 48: return pool_range<48, Storage>(job, range);
  case 32: return pool_range<32, Storage>(job, range);
  default: return pool_range<0, Storage>(job, range);
  }
}

} // namespace

void pool(const PoolJob &job, const PoolRange &range) {
  if (job.half)
    pool_typed<Half>(job, range);
  else
    pool_typed<float>(job, range);
}

} // namespace bev::BEV_VARIANT
