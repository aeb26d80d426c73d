// Resizes, crops, reorders and normalises pictures in one pass over the rows that are used.
//
// The arithmetic is that of 8-bit linear resizing in vision libraries, to the bit: weights in 1/2048, products that lose
// four bits after the mix along x and sixteen after the mix along y. Two mixed source rows are kept, since neighbouring
// rows of the result mostly share one.
#include "variants.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace bev {
namespace BEV_VARIANT {
namespace {

constexpr int64_t kLanes = 4; // samples of a mixed pixel: the fourth is only there to fill a register

int64_t inside(int64_t index, int64_t size) { return index < 0 ? 0 : index < size ? index : size - 1; }

// Pixels [first, last) of one source row, mixed along x: mixed[x][sample] = (left * weight + right * weight) >> 4.
void mix_plainly(const uint8_t *row, const BevImage &image, const BevImageTaps &columns, int64_t first, int64_t last,
                 int16_t *mixed) {
  for (int64_t x = first; x < last; ++x) {
    const uint8_t *left = row + columns.low[x] * image.samples;
    const uint8_t *right = row + inside(columns.low[x] + 1, image.width) * image.samples;
    for (int64_t sample = 0; sample < image.samples; ++sample)
      mixed[x * kLanes + sample] = static_cast<int16_t>(
          (left[sample] * columns.weights[2 * x] + right[sample] * columns.weights[2 * x + 1]) >> 4);
  }
}

#ifdef __AVX2__
// Four pixels at a time. One load of eight bytes holds a pixel and its right neighbour; a shuffle brings each sample of the
// one beside that of the other. `last`: pixels whose eight bytes may be read.
int64_t mix_quickly(const uint8_t *row, const BevImage &image, const BevImageTaps &columns, int64_t last, int16_t *mixed) {
  const char n = static_cast<char>(image.samples);
  alignas(16) char order[16];
  for (int i = 0; i < 4; ++i) {
    order[4 * i] = i < n ? static_cast<char>(i) : static_cast<char>(-1);
    order[4 * i + 2] = i < n ? static_cast<char>(i + n) : static_cast<char>(-1);
    order[4 * i + 1] = order[4 * i + 3] = static_cast<char>(-1);
  }
  const __m256i shuffle = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i *>(order)));
  const __m256i first_pair = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), second_pair = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  const auto pixel = [&](int64_t x) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i *>(row + columns.low[x] * image.samples));
  };
  int64_t x = 0;
  for (; x + 4 <= last; x += 4) {
    const __m256i weights =
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(columns.weights + 2 * x)));
    const __m256i a = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(pixel(x)), pixel(x + 1), 1), shuffle);
    const __m256i b =
        _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(pixel(x + 2)), pixel(x + 3), 1), shuffle);
    const __m256i low = _mm256_srai_epi32(_mm256_madd_epi16(a, _mm256_permutevar8x32_epi32(weights, first_pair)), 4);
    const __m256i high = _mm256_srai_epi32(_mm256_madd_epi16(b, _mm256_permutevar8x32_epi32(weights, second_pair)), 4);
    // Packing works within halves: 0 2 1 3, put in order by the permutation.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(mixed + x * kLanes), packed);
  }
  return x;
}
#endif

void mix_row(const BevImage &image, const BevImageTaps &columns, int64_t row, int64_t width, int16_t *mixed) {
  const uint8_t *begin = image.pixels + row * image.step;
  int64_t done = 0;
#ifdef __AVX2__
  const int64_t readable = (image.height - 1 - row) * image.step + image.width * image.samples;
  int64_t last = width;
  while (last > 0 && columns.low[last - 1] * image.samples + 8 > readable) --last;
  done = mix_quickly(begin, image, columns, last, mixed);
#endif
  mix_plainly(begin, image, columns, done, width, mixed);
}

// Two mixed rows to 8-bit pixels, [width][4].
void mix_rows(const int16_t *low, const int16_t *high, int16_t low_weight, int16_t high_weight, int64_t count, uint8_t *out) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t sum = ((low[i] * low_weight) >> 16) + ((high[i] * high_weight) >> 16);
    out[i] = static_cast<uint8_t>((sum + 2) >> 2);
  }
}

void put_row(const ImageJob &job, const BevImage &image, const uint8_t *pixels, int64_t y, void *out) {
  const int64_t plane = job.height * job.width;
  for (int64_t channel = 0; channel < 3; ++channel) {
    const uint8_t *source = pixels + image.channels[channel];
    const int64_t start = job.channels_last ? y * job.width * 3 + channel : channel * plane + y * job.width;
    const int64_t stride = job.channels_last ? 3 : 1;
    if (job.table) {
      const float *table = job.table + channel * 256;
      float *target = static_cast<float *>(out) + start;
      for (int64_t x = 0; x < job.width; ++x) target[x * stride] = table[source[x * kLanes]];
    } else {
      uint8_t *target = static_cast<uint8_t *>(out) + start;
      for (int64_t x = 0; x < job.width; ++x) target[x * stride] = source[x * kLanes];
    }
  }
}

} // namespace

void image(const ImageJob &job, int64_t index) {
  const BevImage &image = job.images[index];
  const BevImageTaps &columns = *image.columns, &rows = *image.rows;
  const int64_t row_bytes = bev_image_scratch_bytes(job.width);
  uint8_t *scratch = job.scratch + index * row_bytes;
  int16_t *mixed[2] = {reinterpret_cast<int16_t *>(scratch), reinterpret_cast<int16_t *>(scratch) + job.width * kLanes};
  uint8_t *pixels = scratch + 4 * job.width * kLanes;
  int64_t held[2] = {-1, -1};
  const int64_t size = job.height * job.width * 3 * (job.table ? 4 : 1);
  uint8_t *out = static_cast<uint8_t *>(job.out) + index * size;
  for (int64_t y = 0; y < job.height; ++y) {
    const int64_t low = rows.low[y] < 0 ? 0 : rows.low[y], high = inside(rows.low[y] + 1, image.height);
    if (held[1] == low) { // the lower row of the last pair is the upper of this one
      int16_t *other = mixed[0];
      mixed[0] = mixed[1], mixed[1] = other;
      held[1] = held[0], held[0] = low;
    }
    if (held[0] != low) mix_row(image, columns, low, job.width, mixed[0]), held[0] = low;
    if (held[1] != high && high != low) mix_row(image, columns, high, job.width, mixed[1]), held[1] = high;
    const int16_t *lower = high == low ? mixed[0] : mixed[1];
    mix_rows(mixed[0], lower, rows.weights[2 * y], rows.weights[2 * y + 1], job.width * kLanes, pixels);
    put_row(job, image, pixels, y, out);
  }
}

} // namespace BEV_VARIANT
} // namespace bev
