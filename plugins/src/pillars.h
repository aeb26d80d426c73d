// What the sums of a pillar are, for the loops over single points and those over sixteen.
#pragma once

#include "variants.h"

namespace bev::BEV_VARIANT {
namespace {

enum Sum { kCount = 0, kMeanZ, kMaxZ, kMinZ, kMeanIntensity, kMaxIntensity, kMeanX, kMeanY, kSlices };

constexpr int64_t kLine = 16; // pillars, and floats of a cache line
constexpr int64_t kMaxSlices = 64;

// Of a line of pillars: a bit for each that has points in this call, and one for a line that was not all zero after the last
// call. A line with points is written whole, whatever it held.
constexpr uint32_t kUsedNow = 0xffff, kHeld = 0x10000;

inline void use(uint32_t *lines, uint64_t cell) { lines[cell / kLine] |= 1u << (cell % kLine); }

struct PillarScales {
  double cell;
  float slice, intensity, z_min;
};

// Orders heights as unsigned integers; every number is above 0, so that cleared sums hold none. ~key orders downwards, which
// makes the lowest of a pillar the highest key.
inline uint32_t height_key(float z) {
  uint32_t bits;
  __builtin_memcpy(&bits, &z, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float height_of(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
  float z;
  __builtin_memcpy(&z, &bits, sizeof(z));
  return z;
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr bool kHaveWide = true;
#else
constexpr bool kHaveWide = false;
inline void add_points_wide(const PillarJob &, const PillarScales &) {}
inline void finish_line_wide(const PillarJob &, int64_t, uint32_t) {}
#endif

} // namespace
} // namespace bev::BEV_VARIANT

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "pillars_avx512.h"
#endif
