// Bilinear sampling table: projects blocks of points into all cameras, then writes the taps of those that are seen.
#include "variants.h"

namespace bev::BEV_VARIANT {
namespace {

constexpr int kBlock = 256;
constexpr float kUnseen = -1.0f; // as a pixel column: left of every image
constexpr float kHalfPi = 1.57079632679489662f;
constexpr float kPi = 3.14159265358979324f;

struct Lens {
  float rotation[9], translation[3];
  float k00, k01, k02, k10, k11, k12;
  float d[8];
  float max_radius, max_radius2, right, bottom, min_depth, max_range2;
  int64_t kind;
};

Lens make_lens(const BevCamera &camera, const SampleJob &job) {
  Lens lens;
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 3; ++column)
      lens.rotation[row * 3 + column] = static_cast<float>(camera.camera_from_ref[row * 4 + column]);
    lens.translation[row] = static_cast<float>(camera.camera_from_ref[row * 4 + 3]);
  }
  const double *k = camera.intrinsics;
  lens.k00 = static_cast<float>(k[0]), lens.k01 = static_cast<float>(k[1]), lens.k02 = static_cast<float>(k[2]);
  lens.k10 = static_cast<float>(k[3]), lens.k11 = static_cast<float>(k[4]), lens.k12 = static_cast<float>(k[5]);
  for (int i = 0; i < 8; ++i) lens.d[i] = static_cast<float>(camera.distortion[i]);
  lens.max_radius = static_cast<float>(camera.max_radius);
  lens.max_radius2 = lens.max_radius * lens.max_radius;
  lens.right = static_cast<float>(job.width) - 0.5f;
  lens.bottom = static_cast<float>(job.height) - 0.5f;
  lens.min_depth = static_cast<float>(job.min_depth);
  lens.max_range2 = static_cast<float>(job.max_range * job.max_range);
  lens.kind = camera.lens;
  return lens;
}

// atan2(y, x) for y >= 0: a degree-9 Chebyshev fit of atan(t)/t over t^2 in [0, 1], off by less than 1e-7 rad in float.
inline float angle_from_axis(float y, float x) {
  const float magnitude = x < 0 ? -x : x;
  const bool steep = y > magnitude;
  const float numerator = steep ? magnitude : y;
  const float denominator = steep ? y : magnitude;
  const float t = numerator / (denominator > 0 ? denominator : 1.0f);
  const float s = t * t;
  float p = -0.00170117009f;
  p = p * s + 0.0104876494f;
  p = p * s - 0.0303518651f;
  p = p * s + 0.0570895563f;
  p = p * s - 0.08349725f;
  p = p * s + 0.109323415f;
  p = p * s - 0.142600161f;
  p = p * s + 0.199980753f;
  p = p * s - 0.333332763f;
  p = p * s + 1.0f;
  const float octant = p * t;
  const float quadrant = steep ? kHalfPi - octant : octant;
  return x < 0 ? kPi - quadrant : quadrant;
}

struct Block {
  alignas(64) float x[kBlock], y[kBlock], z[kBlock];
  alignas(64) int32_t seen[kBlock]; // cameras that see the point
};

struct Pixels {
  alignas(64) float u[kBlock], v[kBlock];
};

// Pixels of a whole block in one camera; u is kUnseen where the camera does not see the point. False if it sees none.
template <int Kind> bool project(const Lens &lens, Block &block, Pixels &pixels) {
  alignas(64) float cx[kBlock], cy[kBlock], cz[kBlock];
  const float *r = lens.rotation, *t = lens.translation;
  int in_front = 0;
  for (int i = 0; i < kBlock; ++i) {
    const float x = block.x[i], y = block.y[i], z = block.z[i];
    cx[i] = r[0] * x + r[1] * y + r[2] * z + t[0];
    cy[i] = r[3] * x + r[4] * y + r[5] * z + t[1];
    cz[i] = r[6] * x + r[7] * y + r[8] * z + t[2];
    in_front += cz[i] > lens.min_depth;
  }
  if (Kind != BEV_LENS_EQUIDISTANT && in_front == 0) return false;
  int any = 0;
  for (int i = 0; i < kBlock; ++i) {
    const float z = cz[i];
    const float side2 = cx[i] * cx[i] + cy[i] * cy[i];
    const float range2 = side2 + z * z;
    float x, y;
    int visible = range2 <= lens.max_range2;
    if constexpr (Kind == BEV_LENS_EQUIDISTANT) {
      const float side = __builtin_sqrtf(side2);
      const float theta = angle_from_axis(side, z);
      const float t2 = theta * theta;
      const float bent =
          theta * (1 + t2 * (lens.d[0] + t2 * (lens.d[1] + t2 * (lens.d[2] + t2 * lens.d[3]))));
      const float scale = side > 1e-9f ? bent / side : 0.0f;
      x = cx[i] * scale;
      y = cy[i] * scale;
      visible &= (theta < lens.max_radius) & (range2 > lens.min_depth * lens.min_depth);
    } else {
      const float inverse = 1.0f / (z > lens.min_depth ? z : 1.0f);
      const float a = cx[i] * inverse, b = cy[i] * inverse;
      visible &= z > lens.min_depth;
      x = a;
      y = b;
      if constexpr (Kind == BEV_LENS_POLYNOMIAL) {
        const float *d = lens.d;
        const float r2 = a * a + b * b;
        const float radial =
            (1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))) / (1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7])));
        x = a * radial + 2 * d[2] * a * b + d[3] * (r2 + 2 * a * a);
        y = b * radial + d[2] * (r2 + 2 * b * b) + 2 * d[3] * a * b;
        visible &= r2 < lens.max_radius2;
      }
    }
    const float u = lens.k00 * x + lens.k01 * y + lens.k02;
    const float v = lens.k10 * x + lens.k11 * y + lens.k12;
    visible &= (u >= -0.5f) & (u < lens.right) & (v >= -0.5f) & (v < lens.bottom);
    pixels.u[i] = visible ? u : kUnseen;
    pixels.v[i] = v;
    block.seen[i] += visible;
    any |= visible;
  }
  return any != 0;
}

bool project_any(const Lens &lens, Block &block, Pixels &pixels) {
  switch (lens.kind) {
  case BEV_LENS_POLYNOMIAL: return project<BEV_LENS_POLYNOMIAL>(lens, block, pixels);
  case BEV_LENS_EQUIDISTANT: return project<BEV_LENS_EQUIDISTANT>(lens, block, pixels);
  default: return project<BEV_LENS_NONE>(lens, block, pixels);
  }
}

// Loads a block; the rest of a short one is NaN, which no camera sees.
void load(const float *points, int64_t count, Block &block) {
  for (int i = 0; i < kBlock; ++i) {
    const bool valid = i < count;
    block.x[i] = valid ? points[i * 3] : __builtin_nanf("");
    block.y[i] = valid ? points[i * 3 + 1] : 0.0f;
    block.z[i] = valid ? points[i * 3 + 2] : 0.0f;
    block.seen[i] = 0;
  }
}

inline int32_t floor_pixel(float value) {
  const int32_t truncated = static_cast<int32_t>(value);
  return truncated - (value < static_cast<float>(truncated));
}

} // namespace

int64_t sample(const SampleJob &job) {
  BevTable &table = *job.table;
  table.num_points = table.num_intervals = 0; // what an early return leaves
  const int32_t width = static_cast<int32_t>(job.width), height = static_cast<int32_t>(job.height);
  Lens lenses[BEV_MAX_CAMERAS];
  Pixels pixels[BEV_MAX_CAMERAS];
  int seeing[BEV_MAX_CAMERAS]; // cameras that see part of the current block, in order
  for (int64_t camera = 0; camera < job.num_cameras; ++camera) lenses[camera] = make_lens(job.cameras[camera], job);
  Block block;
  int64_t count = 0, intervals = 0;
  for (int64_t first = 0; first < job.num_points; first += kBlock) {
    const int64_t size = job.num_points - first < kBlock ? job.num_points - first : kBlock;
    load(job.points + first * 3, size, block);
    int num_seeing = 0;
    for (int64_t camera = 0; camera < job.num_cameras; ++camera)
      if (project_any(lenses[camera], block, pixels[camera])) seeing[num_seeing++] = static_cast<int>(camera);
    for (int i = 0; i < size; ++i) {
      const int32_t cell = static_cast<int32_t>(first + i);
      const int32_t length = block.seen[i] * 4;
      job.covered[cell] = length > 0;
      if (length == 0) continue;
      if (count + length > table.point_capacity || intervals >= table.interval_capacity) return BEV_ERROR_CAPACITY;
      const float share = 1.0f / static_cast<float>(block.seen[i]);
      table.interval_starts[intervals] = static_cast<int32_t>(count);
      table.interval_cells[intervals] = cell;
      table.interval_lengths[intervals++] = length;
      for (int s = 0; s < num_seeing; ++s) {
        const Pixels &at = pixels[seeing[s]];
        const float u = at.u[i], v = at.v[i];
        if (u == kUnseen) continue;
        const int32_t left = floor_pixel(u), top = floor_pixel(v);
        const float right_part = u - static_cast<float>(left), lower_part = v - static_cast<float>(top);
        const int32_t u0 = left < 0 ? 0 : left, u1 = left + 1 < width ? left + 1 : left;
        const int32_t v0 = top < 0 ? 0 : top, v1 = top + 1 < height ? top + 1 : top;
        const float upper = (1.0f - lower_part) * share, lower = lower_part * share;
        const int32_t row0 = (seeing[s] * height + v0) * width, row1 = (seeing[s] * height + v1) * width;
        const float weights[4] = {upper * (1.0f - right_part), upper * right_part, lower * (1.0f - right_part),
                                  lower * right_part};
        const int32_t taps[4] = {row0 + u0, row0 + u1, row1 + u0, row1 + u1};
        for (int tap = 0; tap < 4; ++tap) {
          table.weights[count + tap] = weights[tap];
          table.ranks_depth[count + tap] = static_cast<int32_t>(count + tap);
          table.ranks_feat[count + tap] = taps[tap];
          table.ranks_bev[count + tap] = cell;
        }
        count += 4;
      }
    }
  }
  table.num_points = count;
  table.num_intervals = intervals;
  return count;
}

} // namespace bev::BEV_VARIANT
