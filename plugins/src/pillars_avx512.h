// Pillars of eight slices, whose sums are one cache line: sixteen points are placed at a time, a point is one addition to its
// line, and sixteen lines are turned into one line of each plane. Included by pillars.h in the AVX-512 variant only.
//
// A vector of "turned" order has in lane 4 l + j what belongs to point 4 j + l: that is how four points a load come out.
#pragma once

#include <immintrin.h>

namespace bev::BEV_VARIANT {
namespace {

constexpr int kWide = 16;
constexpr int64_t kPlaced = 64; // points of a batch
constexpr int kBatches = 3;     // of which two are on their way from memory while the third is added up
constexpr __mmask16 kHighest = 1u << kMaxZ | 1u << kMinZ | 1u << kMaxIntensity;

struct PlacedWide {
  alignas(64) float sums[kPlaced][8]; // what a point adds to its pillar, but for the count and the slice
  alignas(64) uint32_t cells[kPlaced], slices[kPlaced];
  uint64_t counted; // a bit for each point that counts
};

// One in the count and in one of the slices.
struct Ones {
  alignas(64) float lines[8][kWide];
};
constexpr Ones kOnes = {{{1, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
                         {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}}};

// Turns each 4x4 block that the same 128 bits of four vectors make.
inline void turn_blocks(__m512 &a, __m512 &b, __m512 &c, __m512 &d) {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

// x, y, z and intensity of four points.
inline __m512 load_points(const float *points, int64_t stride) {
  if (stride == 4) return _mm512_loadu_ps(points);
  __m512 four = _mm512_castps128_ps512(_mm_loadu_ps(points));
  four = _mm512_insertf32x4(four, _mm_loadu_ps(points + stride), 1);
  four = _mm512_insertf32x4(four, _mm_loadu_ps(points + 2 * stride), 2);
  return _mm512_insertf32x4(four, _mm_loadu_ps(points + 3 * stride), 3);
}

// Along one axis: the whole pillar, the offset from its middle, and which points are over the grid.
struct Along {
  __m512i whole;
  __m512 offset;
  __mmask16 inside;
};

struct AxisWide {
  __m512d origin, scale, size;

  AxisWide(double first, double per_cell, int64_t count)
      : origin(_mm512_set1_pd(first)), scale(_mm512_set1_pd(per_cell)), size(_mm512_set1_pd(static_cast<double>(count))) {}

  Along operator()(__m512 position) const {
    __m256i whole[2];
    __m256 offset[2];
    __mmask8 inside[2];
    for (int half = 0; half < 2; ++half) {
      const __m256 part = half ? _mm512_extractf32x8_ps(position, 1) : _mm512_castps512_ps256(position);
      const __m512d at = _mm512_mul_pd(_mm512_sub_pd(_mm512_cvtps_pd(part), origin), scale);
      inside[half] = _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(at, _mm512_setzero_pd(), _CMP_GE_OQ), at, size, _CMP_LT_OQ);
      whole[half] = _mm512_cvttpd_epi32(at);
      offset[half] = _mm512_cvtpd_ps(_mm512_sub_pd(at, _mm512_cvtepi32_pd(whole[half])));
    }
    return {_mm512_inserti64x4(_mm512_castsi256_si512(whole[0]), whole[1], 1),
            _mm512_sub_ps(_mm512_insertf32x8(_mm512_castps256_ps512(offset[0]), offset[1], 1), _mm512_set1_ps(0.5f)),
            _mm512_kunpackb(inside[1], inside[0])};
  }
};

struct PlacingWide {
  AxisWide rows, columns;
  __m512 z_min, slice, intensity;
  __m512i num_columns;

  PlacingWide(const BevPillarGrid &grid, const PillarScales &scales)
      : rows(grid.x_min, scales.cell, grid.rows), columns(grid.y_min, scales.cell, grid.columns),
        z_min(_mm512_set1_ps(scales.z_min)), slice(_mm512_set1_ps(scales.slice)),
        intensity(_mm512_set1_ps(scales.intensity)), num_columns(_mm512_set1_epi32(static_cast<int>(grid.columns))) {}
};

// Places sixteen points as number `at` and on of a batch.
inline void place_wide(const float *points, int64_t stride, const PlacingWide &wide, PlacedWide &batch, int64_t at) {
  __m512 x = load_points(points, stride), y = load_points(points + 4 * stride, stride);
  __m512 z = load_points(points + 8 * stride, stride), intensity = load_points(points + 12 * stride, stride);
  turn_blocks(x, y, z, intensity);
  const Along row = wide.rows(x), column = wide.columns(y);
  const __m512 zero = _mm512_setzero_ps();
  const __m512 slice = _mm512_mul_ps(_mm512_sub_ps(z, wide.z_min), wide.slice);
  const __mmask16 layered =
      _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(slice, zero, _CMP_GE_OQ), slice, _mm512_set1_ps(8.0f), _CMP_LT_OQ);
  // The second operand is the result where one is NaN.
  intensity = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(intensity, wide.intensity), zero), _mm512_set1_ps(1));
  const __m512i bits = _mm512_castps_si512(z);
  const __m512i flip = _mm512_or_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(INT32_MIN));
  __m512 key = _mm512_castsi512_ps(_mm512_xor_si512(bits, flip));
  __m512 opposite = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_xor_si512(bits, flip), _mm512_set1_epi32(-1)));
  const __m512i cell = _mm512_add_epi32(_mm512_mullo_epi32(row.whole, wide.num_columns), column.whole);
  const __mmask16 counted = row.inside & column.inside & layered;

  const __m512i back = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_si512(batch.cells + at, _mm512_permutexvar_epi32(back, _mm512_maskz_mov_epi32(counted, cell)));
  _mm512_store_si512(batch.slices + at, _mm512_permutexvar_epi32(back, _mm512_cvttps_epi32(slice)));
  const __mmask16 in_order = _mm512_movepi32_mask(_mm512_permutexvar_epi32(back, _mm512_movm_epi32(counted)));
  batch.counted |= static_cast<uint64_t>(in_order) << at;

  __m512 first = zero, second = z, other = intensity, rows = row.offset, columns = column.offset;
  turn_blocks(first, second, key, opposite);
  turn_blocks(intensity, other, rows, columns);
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512 lefts[4] = {first, second, key, opposite}, rights[4] = {intensity, other, rows, columns};
  for (int i = 0; i < 4; ++i) {
    const __m512d left = _mm512_castps_pd(lefts[i]), right = _mm512_castps_pd(rights[i]);
    _mm512_store_pd(batch.sums[at + 4 * i], _mm512_permutex2var_pd(left, low, right));
    _mm512_store_pd(batch.sums[at + 4 * i + 2], _mm512_permutex2var_pd(left, high, right));
  }
}

// Places the batch that begins at point `first`, if there is one, and asks memory for its pillars.
inline void place_batch(const PillarJob &job, const PlacingWide &wide, int64_t first, PlacedWide &batch) {
  const int64_t left = job.num_points - first;
  batch.counted = 0;
  for (int64_t at = 0; at < kPlaced && at < left; at += kWide) {
    const float *points = job.points + (first + at) * job.stride;
    if (left - at >= kWide) {
      place_wide(points, job.stride, wide, batch, at);
    } else {
      alignas(64) float rest[kWide][4];
      __builtin_memset(rest, -1, sizeof(rest)); // all NaN, which counts for nothing
      for (int64_t i = 0; i < left - at; ++i) __builtin_memcpy(rest[i], points + i * job.stride, sizeof(rest[0]));
      place_wide(rest[0], 4, wide, batch, at);
    }
    for (int i = 0; i < kWide; ++i)
      __builtin_prefetch(job.scratch + static_cast<uint64_t>(batch.cells[at + i]) * kLine, 1);
  }
}

inline void add_batch(float *__restrict scratch, uint32_t *__restrict lines, const PlacedWide &batch) {
  for (uint64_t left = batch.counted; left; left &= left - 1) {
    const uint64_t at = static_cast<uint64_t>(__builtin_ctzll(left)), cell = batch.cells[at];
    float *const sums = scratch + cell * kLine;
    use(lines, cell);
    const __m512 point = _mm512_or_ps(_mm512_zextps256_ps512(_mm256_load_ps(batch.sums[at])),
                                      _mm512_load_ps(kOnes.lines[batch.slices[at]]));
    const __m512 held = _mm512_loadu_ps(sums);
    // Intensities are not negative and heights are keys: both order as integers.
    _mm512_storeu_ps(sums, _mm512_castsi512_ps(_mm512_mask_max_epu32(_mm512_castps_si512(_mm512_add_ps(held, point)), kHighest,
                                                                     _mm512_castps_si512(held), _mm512_castps_si512(point))));
  }
}

void add_points_wide(const PillarJob &job, const PillarScales &scales) {
  const PlacingWide wide(*job.grid, scales);
  PlacedWide batches[kBatches];
  for (PlacedWide &batch : batches) batch.counted = 0;
  int turn = 0;
  for (int64_t first = 0; first < job.num_points + (kBatches - 1) * kPlaced; first += kPlaced) {
    place_batch(job, wide, first, batches[turn]);
    turn = (turn + 1) % kBatches;
    add_batch(job.scratch, job.lines, batches[turn]);
  }
}

// Lane by lane, counts[channel] of sixteen pillars, to log1p(count) / 4.
inline __m512 log_counts(const PillarJob &job, __m512 counts, bool few) {
  const __m512i whole = _mm512_cvttps_epi32(counts);
  if (few) return _mm512_permutex2var_ps(_mm512_loadu_ps(job.log_counts), whole, _mm512_loadu_ps(job.log_counts + kWide));
  const __m512i known = _mm512_min_epi32(whole, _mm512_set1_epi32(kKnownCounts - 1));
  __m512 logs = _mm512_i32gather_ps(known, job.log_counts, 4);
  unsigned many = _mm512_cmpge_epi32_mask(whole, _mm512_set1_epi32(kKnownCounts));
  if (many) {
    alignas(64) float values[kWide], each[kWide];
    _mm512_store_ps(each, counts);
    _mm512_store_ps(values, logs);
    for (; many; many &= many - 1) values[__builtin_ctz(many)] = job.log_count(each[__builtin_ctz(many)]);
    logs = _mm512_load_ps(values);
  }
  return logs;
}

inline __m512 heights(__m512 keys) {
  const __m512i bits = _mm512_castps_si512(keys);
  // A key without its top bit is the complement of a negative number.
  const __m512i flip = _mm512_or_si512(_mm512_andnot_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(-1)),
                                       _mm512_set1_epi32(INT32_MIN));
  return _mm512_castsi512_ps(_mm512_xor_si512(bits, flip));
}

// As finish_line, for the sixteen pillars from `first`.
void finish_line_wide(const PillarJob &job, int64_t first, uint32_t used) {
  float *const sums = job.scratch + first * kLine;
  alignas(64) static constexpr float kNothing[kWide] = {};
  __m512 lines[kWide];
#pragma GCC unroll 16
  for (int i = 0; i < kWide; ++i) lines[i] = _mm512_loadu_ps(used >> i & 1 ? sums + i * kLine : kNothing);
#pragma GCC unroll 4
  for (int i = 0; i < kWide; i += 4) turn_blocks(lines[i], lines[i + 1], lines[i + 2], lines[i + 3]);
  // What is left is to turn blocks of 128 bits.
  __m512 channels[kWide];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 low = _mm512_shuffle_f32x4(lines[i], lines[i + 4], 0x88), low_odd = _mm512_shuffle_f32x4(lines[i], lines[i + 4], 0xdd);
    const __m512 high = _mm512_shuffle_f32x4(lines[i + 8], lines[i + 12], 0x88);
    const __m512 high_odd = _mm512_shuffle_f32x4(lines[i + 8], lines[i + 12], 0xdd);
    channels[i] = _mm512_shuffle_f32x4(low, high, 0x88);
    channels[i + 4] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    channels[i + 8] = _mm512_shuffle_f32x4(low, high, 0xdd);
    channels[i + 12] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
  }
  const __m512 counts = channels[kCount], half = _mm512_set1_ps(0.5f);
  float *const out = job.features + first;
  const int64_t cells = job.grid->rows * job.grid->columns;
  const bool few = _mm512_cmp_ps_mask(counts, _mm512_set1_ps(2 * kWide), _CMP_GE_OQ) == 0;
  const __m512 inverse = _mm512_maskz_div_ps(static_cast<__mmask16>(used), _mm512_set1_ps(1), counts);
  const __m512i ones = _mm512_set1_epi32(-1);
  const __m512 lowest = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(channels[kMinZ]), ones));
  _mm512_storeu_ps(out + kCount * cells, log_counts(job, counts, few));
  _mm512_storeu_ps(out + kMeanZ * cells, _mm512_mul_ps(_mm512_mul_ps(channels[kMeanZ], inverse), half));
  _mm512_storeu_ps(out + kMaxZ * cells, _mm512_maskz_mul_ps(static_cast<__mmask16>(used), heights(channels[kMaxZ]), half));
  _mm512_storeu_ps(out + kMinZ * cells, _mm512_maskz_mul_ps(static_cast<__mmask16>(used), heights(lowest), half));
  _mm512_storeu_ps(out + kMeanIntensity * cells, _mm512_mul_ps(channels[kMeanIntensity], inverse));
  _mm512_storeu_ps(out + kMaxIntensity * cells, channels[kMaxIntensity]);
  _mm512_storeu_ps(out + kMeanX * cells, _mm512_mul_ps(channels[kMeanX], inverse));
  _mm512_storeu_ps(out + kMeanY * cells, _mm512_mul_ps(channels[kMeanY], inverse));
#pragma GCC unroll 8
  for (int i = kSlices; i < kWide; ++i) _mm512_storeu_ps(out + i * cells, log_counts(job, channels[i], few));
  for (; used; used &= used - 1) _mm512_storeu_ps(sums + __builtin_ctz(used) * kLine, _mm512_setzero_ps());
}

} // namespace
} // namespace bev::BEV_VARIANT
