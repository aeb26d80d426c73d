// C interface of the CPU kernels: bird's-eye-view pooling and the tables that drive it.
//
// Every function returns a count >= 0, or one of the negative codes below. No exception leaves the library. Nothing is kept
// between calls but the threads that callers asked for, which sleep until the next call and are the only allocation. Arrays
// are C-contiguous and belong to the caller. Sizes are checked here; the *contents* of a table are trusted by bev_pool_f32,
// so a table that was not made by the builders below must be checked first (BevPoolTable.validate does).
#ifndef BEV_RUNTIME_KERNELS_H
#define BEV_RUNTIME_KERNELS_H

#include <stdint.h>

#define BEV_ABI_VERSION 7
#define BEV_MAX_CAMERAS 64

#define BEV_ERROR_ARGUMENT (-1)  // a null pointer, a negative size, or a value outside its range
#define BEV_ERROR_CAPACITY (-2)  // the table's arrays are too small for this geometry
#define BEV_ERROR_TOO_LARGE (-3) // an index would not fit into int32

#if defined(__GNUC__)
#define BEV_EXPORT __attribute__((visibility("default")))
#else
#define BEV_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum BevLens { BEV_LENS_NONE = 0, BEV_LENS_POLYNOMIAL = 1, BEV_LENS_EQUIDISTANT = 2 };

// One camera. Pixels are those of the feature map, with integer coordinates at pixel centres.
struct BevCamera {
  double camera_from_ref[12]; // rows of [R | t], metres, reference ego frame to optical frame
  double intrinsics[9];       // K, row-major
  double distortion[8];       // k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 of the equidistant model
  double max_radius;          // where the lens model stops being monotonic: radius at z = 1, or angle if equidistant
  int64_t lens;               // enum BevLens
};

// The points of a pooling table, sorted by cell. Arrays have room for `point_capacity` and `interval_capacity` entries.
struct BevTable {
  float *weights; // may be null for bev_build_splat_table
  int32_t *ranks_depth, *ranks_feat, *ranks_bev;
  int32_t *interval_starts, *interval_lengths;
  int32_t *interval_cells; // ranks_bev of each interval's points, so that pooling need not read those
  int64_t point_capacity, interval_capacity;
  int64_t num_points, num_intervals; // written by the builders
};

BEV_EXPORT int64_t bev_abi_version(void);

// Name of the code path chosen for this processor: "avx512", "avx2" or "portable".
BEV_EXPORT const char *bev_variant(void);

// Uses no path beyond the named one from now on, to compare paths or to hold results the same on unlike machines (paths
// differ in the last bits). Returns 0, or more where a path beyond "portable" is in use.
BEV_EXPORT int64_t bev_limit_variant(const char *name);

// out[cell, :] = sum over the cell's interval of depth[ranks_depth] * feat[ranks_feat, :]; other cells become 0.
//
// Sums run in the order of the table and an interval belongs to one thread, so the result does not depend on
// `num_threads` by a single bit. Intervals are sorted by cell, one per cell. Returns the number of intervals.
//
// held: uint8[num_cells], or null. 1 marks the cells of `out` that may be other than 0: of the cells without points only
// those are cleared. It is brought up to date, so whoever keeps both arrays, and writes neither, need not do more than begin
// with ones, or with zeros in both. An error leaves both as they were.
BEV_EXPORT int64_t bev_pool_f32(const float *depth, const float *feat, int64_t channels, const struct BevTable *table,
                                float *out, uint8_t *held, int64_t num_cells, int64_t num_threads);

// The same for IEEE halves, as their bits: each product and sum is float32, and rounding to half is the last step.
BEV_EXPORT int64_t bev_pool_f16(const uint16_t *depth, const uint16_t *feat, int64_t channels,
                                const struct BevTable *table, uint16_t *out, uint8_t *held, int64_t num_cells,
                                int64_t num_threads);

// Bilinear sampling of points float[num_points][3] (reference ego frame, metres) in every camera that sees them.
//
// A camera sees a point that is at least `min_depth` in front of it (equidistant: away from it), at most `max_range` away,
// inside the lens' monotonic range, and inside its image. Each point is a cell; it gets four weights per camera that sees
// it, which sum to 1 over all its cameras. ranks_feat = (camera * height + v) * width + u. `covered`: uint8[num_points],
// 1 where a camera sees the point. Returns the number of table points.
BEV_EXPORT int64_t bev_build_sample_table(const struct BevCamera *cameras, int64_t num_cameras, int64_t width,
                                          int64_t height, const float *points, int64_t num_points, double min_depth,
                                          double max_range, struct BevTable *table, uint8_t *covered);

struct BevSplatGrid {
  double x_min, y_min, cell, z_min, z_max;
  int64_t rows, columns;
};

// Lift-splat frustum points, sorted by cell (stable, so within a cell they keep the order camera, depth, row, column).
//
// rays: float[num_cameras][height][width][3] with z = 1 in each camera's frame, NaN where a pixel has no ray.
// ref_from_camera: double[num_cameras][12]. depths: float[num_depths], metres along the optical axis.
// ranks_depth = ((n * D + d) * H + h) * W + w and ranks_feat = (n * H + h) * W + w. Points outside the grid are dropped.
// scratch_cells: int32[num_cameras * num_depths * height * width + rows * columns]; scratch_rays: double[3 * height * width].
// covered: uint8[rows * columns]. Returns the number of table points.
BEV_EXPORT int64_t bev_build_splat_table(const float *rays, const double *ref_from_camera, const float *depths,
                                         int64_t num_cameras, int64_t num_depths, int64_t height, int64_t width,
                                         const struct BevSplatGrid *grid, int32_t *scratch_cells, double *scratch_rays,
                                         struct BevTable *table, uint8_t *covered);

struct BevPillarGrid {
  double x_min, y_min, cell, z_min, slice_height, intensity_scale;
  int64_t rows, columns, slices;
};

// What the points in each pillar are like.
//
// points: float[num_points][stride], x y z intensity first, in the frame of the grid. A point counts when it is over the
// grid and inside one of `slices` slices from z_min upwards. features: float[8 + slices][rows * columns], zero before the
// first call; of a pillar with n points: log1p(n)/4, mean, highest and lowest z (each / 2), mean and highest intensity (of
// intensity / intensity_scale clipped to 0..1), mean offset from the pillar's middle along x and y in cells, and
// log1p(points)/4 of each slice; 0 without points. scratch: float[rows * columns][8 + slices], zero before the first call
// and after each; fastest when it and every plane of the features begin at a multiple of 64 bytes. lines: uint32[rows *
// columns / 16, rounded up], zero before the first call, then left alone together with the features: it says which of their
// lines of 16 pillars are not all zero, since only those are cleared. Code paths give the same bits and may take turns.
// Returns the number of pillars with points.
BEV_EXPORT int64_t bev_pillar_features(const float *points, int64_t num_points, int64_t stride,
                                       const struct BevPillarGrid *grid, float *features, float *scratch, uint32_t *lines);

// One axis of a resized and cropped picture: pixel i mixes the source's pixels low[i] and low[i] + 1 (the border's pixel
// where there is none) with weights[2 * i] and weights[2 * i + 1], in 1/2048.
struct BevImageTaps {
  const int32_t *low;
  const int16_t *weights;
};

// Fills the taps of pixels [offset, offset + count) of `source` pixels resized to `resized`. Beyond the border a column
// counts alone; a row counts with both weights, which rounds differently: so do vision libraries. Returns `count`.
BEV_EXPORT int64_t bev_image_taps(int64_t source, int64_t resized, int64_t offset, int64_t count, int64_t is_row,
                                  int32_t *low, int16_t *weights);

// A picture of 8-bit samples, `step` bytes a row. `channels`: which of a pixel's 1 to 4 samples become the three channels.
struct BevImage {
  const uint8_t *pixels;
  int64_t step, width, height, samples, channels[3];
  const struct BevImageTaps *columns, *rows;
};

// Bytes of scratch that a picture of the result needs.
BEV_EXPORT int64_t bev_image_scratch_bytes(int64_t width);

// Resized, cropped, reordered and normalised pictures, equal to the bit to 8-bit linear resizing followed by the table.
//
// table: float[3][256], the value of each 8-bit value by channel, or null for 8-bit results. out: float or uint8
// [num_images][3][height][width], or [num_images][height][width][3] if `channels_last`. scratch:
// num_images * bev_image_scratch_bytes(width). An image belongs to one thread. Returns the number of images.
BEV_EXPORT int64_t bev_images(const struct BevImage *images, int64_t num_images, int64_t height, int64_t width,
                              const float *table, int64_t channels_last, uint8_t *scratch, void *out, int64_t num_threads);

#ifdef __cplusplus
}
#endif
#endif
