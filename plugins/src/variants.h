// The inner loops. Their sources are compiled once per instruction set; kernels.cpp checks the arguments and picks one.
//
// These sources use no inline function of the standard library: the linker keeps one copy of such a function for all
// variants, and if that is the AVX2 one, an older processor dies on it.
#pragma once

#include <stdint.h>

#include "bev_runtime/kernels.h"

namespace bev {

struct SampleJob {
  const BevCamera *cameras;
  int64_t num_cameras, width, height;
  const float *points;
  int64_t num_points;
  double min_depth, max_range;
  BevTable *table;
  uint8_t *covered;
};

struct SplatJob {
  const float *rays;
  const double *ref_from_camera;
  const float *depths;
  int64_t num_cameras, num_depths, height, width;
  const BevSplatGrid *grid;
  int32_t *cell_of_point; // [cameras * depths * height * width]
  int32_t *cell_ends;     // [rows * columns]
  double *directions;     // [3 * height * width]
  BevTable *table;
  uint8_t *covered;
};

struct PoolJob {
  const void *depth, *feat; // float, or IEEE half if `half`
  int64_t channels;
  const BevTable *table;
  void *out;
  bool half;
  uint8_t *held; // [cells], 0 where `out` is zero; or null
};

// The intervals of one part of the work, and the cells that it writes.
struct PoolRange {
  int64_t first_interval, last_interval, first_cell, last_cell;
};

struct PillarJob {
  const float *points;
  int64_t num_points, stride;
  const BevPillarGrid *grid;
  float *features, *scratch;
  uint32_t *lines;
  const float *log_counts; // log1p(n) / 4 of n < kKnownCounts
  float (*log_count)(float count);
};

// Most pillars and slices hold few points, and a logarithm takes longer than all the rest of a point.
constexpr int64_t kKnownCounts = 256;

struct ImageJob {
  const BevImage *images;
  int64_t height, width;
  const float *table;
  bool channels_last;
  uint8_t *scratch;
  void *out;
};

#define BEV_DECLARE_VARIANT(name)                                                                                        \
  namespace name {                                                                                                       \
  void pool(const PoolJob &job, const PoolRange &range);                                                                 \
  int64_t sample(const SampleJob &job);                                                                                  \
  int64_t splat(const SplatJob &job);                                                                                    \
  void image(const ImageJob &job, int64_t index);                                                                        \
  int64_t pillars(const PillarJob &job);                                                                                 \
  }

BEV_DECLARE_VARIANT(portable)
BEV_DECLARE_VARIANT(avx2)
BEV_DECLARE_VARIANT(avx512)

} // namespace bev
