// The C interface: argument checks, choice of instruction set, threads.
#include <atomic>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "variants.h"
#include "workers.h"

namespace {

constexpr int64_t kInt32Max = INT32_MAX;
constexpr int64_t kMaxThreads = 64;
constexpr int64_t kProductsPerThread = 1 << 20; // below this, waking a thread costs more than it saves
// Many parts, so that a thread that wakes late or is held up leaves its share to the others, and none waits long for the last;
// but not so small that claiming one is felt.
constexpr int64_t kPartsPerThread = 32;
constexpr int64_t kProductsPerPart = 1 << 16;

// Instruction sets, each containing those before it.
enum Level { kPortable, kAvx2, kAvx512 };
constexpr const char *kNames[] = {"portable", "avx2", "avx512"};

Level supported() {
#ifdef BEV_HAVE_AVX2
  static const Level level = [] {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return kPortable;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    return wide ? kAvx512 : kAvx2;
  }();
  return level;
#else
  return kPortable;
#endif
}

std::atomic<int> limit{kAvx512};

Level chosen() {
  const int most = limit.load(std::memory_order_relaxed);
  return most < supported() ? static_cast<Level>(most) : supported();
}

#ifdef BEV_HAVE_AVX2
#define BEV_DISPATCH(call)                                                                                          \
  (chosen() == kAvx512 ? bev::avx512::call : chosen() == kAvx2 ? bev::avx2::call : bev::portable::call)
#else
#define BEV_DISPATCH(call) bev::portable::call
#endif

bool usable(const BevTable *table) {
  return table && table->ranks_depth && table->ranks_feat && table->ranks_bev && table->interval_starts &&
         table->interval_lengths && table->interval_cells && table->point_capacity >= 0 && table->interval_capacity >= 0;
}

// The product of sizes, or -1 if one is negative or the product is no int32.
template <typename... Sizes> int64_t product(Sizes... sizes) {
  int64_t total = 1;
  for (const int64_t size : {static_cast<int64_t>(sizes)...}) {
    if (size < 0 || size > kInt32Max) return -1;
    total *= size;
    if (total > kInt32Max) return -1;
  }
  return total;
}

// First interval that begins at or after a point: splits the work evenly by points, never inside an interval.
int64_t interval_at(const BevTable &table, int64_t point) {
  int64_t low = 0, high = table.num_intervals;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (table.interval_starts[middle] < point)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

struct PoolWork {
  bev::PoolJob job;
  int64_t num_cells, num_parts;
};

void run_part(const void *context, int64_t part) {
  const PoolWork &work = *static_cast<const PoolWork *>(context);
  const BevTable &table = *work.job.table;
  const auto begin = [&](int64_t index) {
    if (index == 0) return int64_t{0};
    return index == work.num_parts ? table.num_intervals : interval_at(table, table.num_points * index / work.num_parts);
  };
  const auto cell = [&](int64_t interval) -> int64_t {
    if (interval == 0) return 0;
    return interval == table.num_intervals ? work.num_cells : table.interval_cells[interval];
  };
  const int64_t first = begin(part), last = begin(part + 1);
  const bev::PoolRange range{first, last, part == 0 ? 0 : cell(first),
                             part + 1 == work.num_parts ? work.num_cells : cell(last)};
  BEV_DISPATCH(pool(work.job, range));
}

int64_t pool(const bev::PoolJob &job, int64_t num_cells, int64_t num_threads) {
  const BevTable *table = job.table;
  if (!job.depth || !job.feat || !job.out || !usable(table) || job.channels < 1 || num_cells < 0 || num_threads < 1)
    return BEV_ERROR_ARGUMENT;
  if (table->num_points < 0 || table->num_points > table->point_capacity || table->num_intervals < 0 ||
      table->num_intervals > table->interval_capacity || table->num_intervals > num_cells)
    return BEV_ERROR_ARGUMENT;
  const int64_t products = table->num_points * job.channels;
  int64_t threads = 1 + products / kProductsPerThread;
  threads = threads < num_threads ? threads : num_threads;
  threads = threads < kMaxThreads ? threads : kMaxThreads;
  const int64_t parts = products / kProductsPerPart < threads * kPartsPerThread ? products / kProductsPerPart : threads * kPartsPerThread;
  const PoolWork work{job, num_cells, threads == 1 ? 1 : parts};
  bev::run_parts(work.num_parts, threads, run_part, &work);
  return table->num_intervals;
}

float log_count(float count) { return std::log1p(count) * 0.25f; }

// Made here and not beside the loops: what runs when the library is loaded must run on any processor.
struct LogCounts {
  float values[bev::kKnownCounts];
  LogCounts() noexcept {
    for (int64_t i = 0; i < bev::kKnownCounts; ++i) values[i] = log_count(static_cast<float>(i));
  }
};

const LogCounts kLogCounts;

// A build that failed covers nothing.
int64_t cleared_on_error(int64_t result, uint8_t *covered, int64_t num_cells) {
  if (result < 0) std::memset(covered, 0, num_cells);
  return result;
}

void run_image(const void *context, int64_t index) {
  const bev::ImageJob &job = *static_cast<const bev::ImageJob *>(context);
  BEV_DISPATCH(image(job, index));
}

bool usable(const BevImage &image, int64_t height, int64_t width) {
  if (!image.pixels || image.width < 1 || image.height < 1 || image.samples < 1 || image.samples > 4) return false;
  if (image.step < image.width * image.samples || !image.columns || !image.rows) return false;
  for (const int64_t channel : image.channels)
    if (channel < 0 || channel >= image.samples) return false;
  const auto fits = [](const BevImageTaps &taps, int64_t count, int64_t first, int64_t size) {
    if (!taps.low || !taps.weights) return false;
    for (int64_t i = 0; i < count; ++i)
      if (taps.low[i] < first || taps.low[i] >= size || (i && taps.low[i] < taps.low[i - 1])) return false;
    return true;
  };
  return fits(*image.columns, width, 0, image.width) && fits(*image.rows, height, -1, image.height);
}

} // namespace

extern "C" {

int64_t bev_abi_version(void) { return BEV_ABI_VERSION; }

const char *bev_variant(void) { return kNames[chosen()]; }

int64_t bev_limit_variant(const char *name) {
  if (!name) return BEV_ERROR_ARGUMENT;
  for (int level = kPortable; level <= kAvx512; ++level)
    if (std::strcmp(name, kNames[level]) == 0) {
      limit.store(level, std::memory_order_relaxed);
      return chosen();
    }
  return BEV_ERROR_ARGUMENT;
}

int64_t bev_pool_f32(const float *depth, const float *feat, int64_t channels, const BevTable *table, float *out,
                     uint8_t *held, int64_t num_cells, int64_t num_threads) {
  return pool({depth, feat, channels, table, out, false, held}, num_cells, num_threads);
}

int64_t bev_pool_f16(const uint16_t *depth, const uint16_t *feat, int64_t channels, const BevTable *table, uint16_t *out,
                     uint8_t *held, int64_t num_cells, int64_t num_threads) {
  return pool({depth, feat, channels, table, out, true, held}, num_cells, num_threads);
}

int64_t bev_build_sample_table(const BevCamera *cameras, int64_t num_cameras, int64_t width, int64_t height,
                               const float *points, int64_t num_points, double min_depth, double max_range,
                               BevTable *table, uint8_t *covered) {
  if ((!cameras && num_cameras) || !points || !covered || !usable(table) || !table->weights) return BEV_ERROR_ARGUMENT;
  if (num_cameras < 0 || num_cameras > BEV_MAX_CAMERAS || width < 1 || height < 1 || num_points < 0) return BEV_ERROR_ARGUMENT;
  if (!(min_depth > 0) || !(max_range > 0)) return BEV_ERROR_ARGUMENT;
  if (product(num_cameras, width, height) < 0 || product(num_points) < 0) return BEV_ERROR_TOO_LARGE;
  if (table->point_capacity > kInt32Max) return BEV_ERROR_TOO_LARGE;
  const bev::SampleJob job{cameras,    num_cameras, width,     height, points,
                           num_points, min_depth,   max_range, table,  covered};
  return cleared_on_error(BEV_DISPATCH(sample(job)), covered, num_points);
}

int64_t bev_build_splat_table(const float *rays, const double *ref_from_camera, const float *depths, int64_t num_cameras,
                              int64_t num_depths, int64_t height, int64_t width, const BevSplatGrid *grid,
                              int32_t *scratch_cells, double *scratch_rays, BevTable *table, uint8_t *covered) {
  if (!rays || !ref_from_camera || !depths || !grid || !scratch_cells || !scratch_rays || !covered || !usable(table))
    return BEV_ERROR_ARGUMENT;
  if (num_cameras < 0 || num_depths < 0 || height < 1 || width < 1 || grid->rows < 1 || grid->columns < 1) return BEV_ERROR_ARGUMENT;
  if (!(grid->cell > 0)) return BEV_ERROR_ARGUMENT;
  const int64_t num_points = product(num_cameras, num_depths, height, width);
  if (num_points < 0 || product(height, width, 3) < 0 || product(grid->rows, grid->columns) < 0) return BEV_ERROR_TOO_LARGE;
  const bev::SplatJob job{rays,  ref_from_camera, depths, num_cameras, num_depths, height, width, grid, scratch_cells,
                          scratch_cells + num_points, scratch_rays, table, covered};
  return cleared_on_error(BEV_DISPATCH(splat(job)), covered, grid->rows * grid->columns);
}

} // extern "C"

extern "C" int64_t bev_pillar_features(const float *points, int64_t num_points, int64_t stride, const BevPillarGrid *grid,
                                       float *features, float *scratch, uint32_t *lines) {
  if ((!points && num_points > 0) || num_points < 0 || stride < 4 || !grid || !features || !scratch || !lines)
    return BEV_ERROR_ARGUMENT;
  if (!(grid->cell > 0 && grid->slice_height > 0 && grid->intensity_scale > 0) || grid->slices < 1 || grid->slices > 64)
    return BEV_ERROR_ARGUMENT;
  const int64_t cells = product(grid->rows, grid->columns);
  if (cells < 1 || product(grid->rows, grid->columns, 8 + grid->slices) < 0) return BEV_ERROR_TOO_LARGE;
  const bev::PillarJob job{points, num_points, stride, grid, features, scratch, lines, kLogCounts.values, log_count};
  return BEV_DISPATCH(pillars(job));
}

extern "C" int64_t bev_image_taps(int64_t source, int64_t resized, int64_t offset, int64_t count, int64_t is_row,
                                  int32_t *low, int16_t *weights) {
  if (source < 1 || resized < 1 || offset < 0 || count < 0 || count > resized - offset || !low || !weights)
    return BEV_ERROR_ARGUMENT;
  if (product(source) < 0 || product(resized) < 0) return BEV_ERROR_TOO_LARGE;
  constexpr float kOne = 2048;
  const double scale = 1.0 / (static_cast<double>(resized) / static_cast<double>(source));
  for (int64_t i = 0; i < count; ++i) {
    float at = static_cast<float>((static_cast<double>(i + offset) + 0.5) * scale - 0.5);
    int64_t pixel = static_cast<int64_t>(std::floor(at));
    at -= static_cast<float>(pixel);
    if (!is_row && (pixel < 0 || pixel >= source - 1)) at = 0;
    const int64_t least = is_row ? -1 : 0;
    pixel = pixel < least ? least : pixel < source ? pixel : source - 1;
    low[i] = static_cast<int32_t>(pixel);
    weights[2 * i] = static_cast<int16_t>(std::lrint((1.0f - at) * kOne));
    weights[2 * i + 1] = static_cast<int16_t>(std::lrint(at * kOne));
  }
  return count;
}

extern "C" int64_t bev_image_scratch_bytes(int64_t width) {
  return width < 0 ? BEV_ERROR_ARGUMENT : (20 * width + 63) / 64 * 64; // two mixed rows and one of pixels, four samples each
}

extern "C" int64_t bev_images(const BevImage *images, int64_t num_images, int64_t height, int64_t width, const float *table,
                              int64_t channels_last, uint8_t *scratch, void *out, int64_t num_threads) {
  if ((!images && num_images > 0) || num_images < 0 || height < 1 || width < 1 || !scratch || !out || num_threads < 1)
    return BEV_ERROR_ARGUMENT;
  if (product(num_images, 3, height, width) < 0) return BEV_ERROR_TOO_LARGE;
  for (int64_t i = 0; i < num_images; ++i)
    if (!usable(images[i], height, width)) return BEV_ERROR_ARGUMENT;
  const bev::ImageJob job{images, height, width, table, channels_last != 0, scratch, out};
  bev::run_parts(num_images, num_threads < kMaxThreads ? num_threads : kMaxThreads, run_image, &job);
  return num_images;
}
