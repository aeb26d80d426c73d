// C interface of the CUDA kernels: pooling, pillar statistics and the network's image input.
//
// Every function enqueues its work on `stream` (a cudaStream_t; null is the default stream) and returns at once. Nothing is
// allocated, nothing waits, nothing is kept between calls, so every call may be captured into a CUDA graph. Structs lie in
// host memory and are copied by the call; the pointers in them are device memory of the caller, unless it says otherwise.
// A return value of 0 is success, BEV_CUDA_ERROR_ARGUMENT a size or pointer that cannot be right, BEV_CUDA_ERROR_TOO_LARGE
// an index beyond int32 or a grid beyond the device's, and values below BEV_CUDA_ERROR_RUNTIME are
// BEV_CUDA_ERROR_RUNTIME - (the cudaError_t of the launch).
#ifndef BEV_RUNTIME_CUDA_KERNELS_H
#define BEV_RUNTIME_CUDA_KERNELS_H

#include <stdint.h>

#define BEV_CUDA_ABI_VERSION 1

#define BEV_CUDA_ERROR_ARGUMENT (-1)
#define BEV_CUDA_ERROR_TOO_LARGE (-3)
#define BEV_CUDA_ERROR_RUNTIME (-1000)

#if defined(__GNUC__)
#define BEV_CUDA_EXPORT __attribute__((visibility("default")))
#else
#define BEV_CUDA_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum BevCudaDtype { BEV_CUDA_FLOAT32 = 0, BEV_CUDA_FLOAT16 = 1, BEV_CUDA_UINT8 = 2 };

BEV_CUDA_EXPORT int64_t bev_cuda_abi_version(void);

// out[cell, :] = sum over the cell's interval of depth[ranks_depth] * feat[ranks_feat, :]; other cells become 0.
struct BevCudaPool {
  const void *depth;               // [num_depth]
  const void *feat;                // [num_feat][channels]
  const int32_t *ranks_depth;      // [num_points]
  const int32_t *ranks_feat;       // [num_points]
  const int32_t *ranks_bev;        // [num_points], sorted
  const int32_t *interval_starts;  // [num_intervals], one interval per cell, sorted by cell
  const int32_t *interval_lengths; // [num_intervals]
  void *out;                       // [num_cells][channels], or [channels][num_cells]
  int64_t num_depth, num_feat, num_points, num_intervals, num_cells, channels;
  int32_t dtype;          // of depth, feat and out: BEV_CUDA_FLOAT32 or BEV_CUDA_FLOAT16; sums are float32
  int32_t channels_first; // 0 or 1
};

// Points outside the arrays count as nothing and cells outside the grid are left out; a table that is wrong in other ways
// gives wrong numbers, never a wrong address. Rows that are multiples of 16 bytes and start on one are read 16 bytes at a
// time.
BEV_CUDA_EXPORT int64_t bev_cuda_pool(const struct BevCudaPool *job, void *stream);

struct BevCudaPillars {
  double x_min, y_min, cell, z_min, slice_height, intensity_scale;
  int64_t rows, columns, slices;
  int64_t num_points, stride;
  const float *points;  // [num_points][stride], x y z intensity first
  float *features;      // [8 + slices][rows * columns], zero before the first call
  void *scratch;        // bev_cuda_pillar_scratch_bytes() bytes, 8-byte aligned, zero before the first call and after each
  int32_t *touched;     // [rows * columns]
  int32_t *num_touched; // one value, zero before the first call
};

// Statistics of the points in each pillar; what the features are is said at bev_pillar_features in kernels.h. `touched`:
// the pillars with points, in no particular order; only these are cleared by the next call.
BEV_CUDA_EXPORT int64_t bev_cuda_pillar_features(const struct BevCudaPillars *job, void *stream);

// Bytes of `scratch`, or a negative code.
BEV_CUDA_EXPORT int64_t bev_cuda_pillar_scratch_bytes(int64_t rows, int64_t columns, int64_t slices);

// Where along one axis a pixel of the network's input comes from; weights in 1/2048.
struct BevCudaTap {
  int32_t low, high;
  int16_t low_weight, high_weight;
};

// Fills host memory with the taps of one axis: `count` pixels from `offset` of an axis of `source` pixels that is resized to
// `resized`. `is_row` is 1 for the vertical axis. Upload them once per camera geometry.
BEV_CUDA_EXPORT int64_t bev_cuda_taps(int64_t source, int64_t resized, int64_t offset, int64_t count, int32_t is_row,
                                      struct BevCudaTap *taps);

struct BevCudaImageSource {
  const uint8_t *pixels;
  int64_t step;                     // bytes from row to row
  int32_t samples;                  // bytes per pixel
  int32_t channels[3];              // the sample that becomes each channel of the network
  const struct BevCudaTap *columns; // [width]
  const struct BevCudaTap *rows;    // [height]
};

struct BevCudaImages {
  const struct BevCudaImageSource *sources; // device memory, [cameras]
  const float *table;                       // [3][256]: (value - mean) / std; may be null for uint8
  void *out;                                // [cameras, 3, height, width] or [cameras, height, width, 3]
  int64_t cameras, height, width;
  int32_t dtype;         // enum BevCudaDtype, of out
  int32_t channels_last; // 0 or 1
};

// Resizes, crops, reorders and normalises the images of all cameras, each from its own size.
BEV_CUDA_EXPORT int64_t bev_cuda_images(const struct BevCudaImages *job, void *stream);

#ifdef __cplusplus
}
#endif
#endif
