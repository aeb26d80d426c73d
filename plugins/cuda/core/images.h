// Resize, crop, reorder and normalise: the same numbers as the CPU path, which resizes 8-bit pixels in fixed point.
//
// A pixel of the result is a bilinear mix of four with weights in 1/2048, computed along x and then along y, where products
// lose four bits before and sixteen after the multiplication (the arithmetic of 8-bit linear resizing that vision libraries
// share). The mix is again 8 bits and goes through a table of (value - mean) / std.
#pragma once

#include "bev_runtime/cuda_kernels.h"
#include "core/portable.h"

namespace bev::cuda {

constexpr int kWeightOne = 2048;

using Tap = BevCudaTap;

struct ImageArgs {
  const BevCudaImageSource *sources;
  const float *table; // [3][256], (value - mean) / std of each channel; not used for uint8
  void *out;          // [cameras, 3, height, width], or [cameras, height, width, 3]
  int64_t cameras, height, width;
  bool channels_last;
};

// 8-bit value at a crossing of taps.
BEV_HD uint8_t mix(const uint8_t *low_row, const uint8_t *high_row, const Tap &column, const Tap &row, int samples,
                   int sample) {
  const int64_t left = int64_t{column.low} * samples + sample, right = int64_t{column.high} * samples + sample;
  const int32_t upper = low_row[left] * column.low_weight + low_row[right] * column.high_weight;
  const int32_t lower = high_row[left] * column.low_weight + high_row[right] * column.high_weight;
  const int32_t sum = ((row.low_weight * (upper >> 4)) >> 16) + ((row.high_weight * (lower >> 4)) >> 16);
  return static_cast<uint8_t>((sum + 2) >> 2);
}

BEV_HD void put(float value, uint8_t, float &out) { out = value; }
BEV_HD void put(float value, uint8_t, Half &out) { store(value, out); }
BEV_HD void put(float, uint8_t pixel, uint8_t &out) { out = pixel; }

// `Count` pixels of one row: reads the taps of the row once and writes each plane in one access.
template <typename Value, int Count> BEV_HD void image_pixels(const ImageArgs &args, int64_t index) {
  const int64_t groups = args.width / Count;
  const int64_t x = index % groups * Count, y = index / groups % args.height, camera = index / groups / args.height;
  const BevCudaImageSource source = args.sources[camera];
  const Tap row = source.rows[y];
  const uint8_t *low_row = source.pixels + row.low * source.step, *high_row = source.pixels + row.high * source.step;
  Pack<Value, Count> planes[3];
  for (int i = 0; i < Count; ++i) {
    const Tap column = source.columns[x + i];
    BEV_UNROLL
    for (int channel = 0; channel < 3; ++channel) {
      const uint8_t pixel = mix(low_row, high_row, column, row, source.samples, source.channels[channel]);
      put(args.table ? args.table[channel * 256 + pixel] : 0.0f, pixel, planes[channel].values[i]);
    }
  }
  Value *out = static_cast<Value *>(args.out);
  const int64_t plane = args.height * args.width;
  for (int channel = 0; channel < 3; ++channel) {
    if (args.channels_last)
      for (int i = 0; i < Count; ++i)
        out[((camera * args.height + y) * args.width + x + i) * 3 + channel] = planes[channel].values[i];
    else
      *reinterpret_cast<Pack<Value, Count> *>(out + (camera * 3 + channel) * plane + y * args.width + x) = planes[channel];
  }
}

} // namespace bev::cuda
