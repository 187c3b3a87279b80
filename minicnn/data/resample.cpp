// Resizes RGB images by two weighted sums, rows first; the weights: resample.py.
//
// Arithmetic  As Pillow's for 8-bit images, bit for bit: weights are integers, 22 bits of which are
//             a fraction; each sum is rounded to the nearest and kept as a byte. Weights are not
//             negative and add up to 1, but for their rounding. A weight is taken as its upper and
//             its lower 11 bits: vpmaddwd then sums two products of 16 bits in each of 8 lanes, in
//             half the time of one vpmulld, which has 32 bits and one product.
// Layout      The image has 4 bytes a pixel, the last unused; the result has 3.
// Mapping     Across a row, the halves of a vector hold two results, pixels by the lane; down the
//             columns, 8 neighbouring bytes. AVX2 is spelt out: from plain loops GCC 12 makes code
//             no faster than Pillow's. Without AVX2 this does not compile, and Pillow does it.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include <vector>

constexpr int SHIFT = 22, LOWER = 11, LANES = 8;

// Result i is the sum over t < taps of weight(i, t) · input[first[i] + t]; taps is even.
// pairs: int32 that hold two weights' upper or lower bits, of t and t+1, in 16 bits each:
//   across   [i / 2][t / 2][upper, lower][i % 2][4 times], i even in number;
//   down     [i][t / 2][upper, lower].

struct Sums {
    __m256i upper = _mm256_setzero_si256(), lower = _mm256_setzero_si256();

    // Adds two pixels, or bytes, of 16 bits in each lane, times their weights.
    void add(__m256i two, __m256i upper_pair, __m256i lower_pair) {
        upper = _mm256_add_epi32(upper, _mm256_madd_epi16(two, upper_pair));
        lower = _mm256_add_epi32(lower, _mm256_madd_epi16(two, lower_pair));
    }

    // As bytes, in the lower half.
    __m128i rounded() const {
        const __m256i half = _mm256_set1_epi32(1 << (SHIFT - 1));
        const __m256i lowest = _mm256_set1_epi32(0x0c080400);  // byte 0 of each of four numbers
        __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(upper, LOWER), lower);
        sums = _mm256_srai_epi32(_mm256_add_epi32(sums, half), SHIFT);
        sums = _mm256_min_epi32(sums, _mm256_set1_epi32(255));
        __m256i quads = _mm256_shuffle_epi8(sums, lowest);
        __m128i high = _mm256_extracti128_si256(quads, 1);
        return _mm_unpacklo_epi32(_mm256_castsi256_si128(quads), high);
    }
};

static inline __m128i eight(const uint8_t* bytes) {
    return _mm_loadl_epi64((const __m128i*)bytes);
}

static void across(const uint8_t* pixels, const int32_t* first, const int32_t* pairs, int64_t taps,
                   int64_t size, uint8_t* to) {
    // Two pixels of 4 bytes to 4 pairs of 16 bits, channel by channel; a negative index is 0.
    const __m256i channels =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1,
                                                  7, -1));
    const __m256i* pair = (const __m256i*)pairs;
    for (int64_t x = 0; x < size; x += 2) {
        const uint8_t* left = pixels + 4 * first[x];
        const uint8_t* right = pixels + 4 * first[x + 1];
        Sums sums;
        for (int64_t t = 0; t < taps; t += 2, pair += 2) {
            __m256i both = _mm256_castsi128_si256(eight(left + 4 * t));
            both = _mm256_inserti128_si256(both, eight(right + 4 * t), 1);
            both = _mm256_shuffle_epi8(both, channels);
            sums.add(both, _mm256_loadu_si256(pair), _mm256_loadu_si256(pair + 1));
        }
        int64_t two = _mm_cvtsi128_si64(sums.rounded());
        memcpy(to + 3 * x, &two, 4);  // the fourth byte gives way to the next pixel
        two >>= 32;
        memcpy(to + 3 * x + 3, &two, 4);
    }
}

static void down(const uint8_t* rows, int64_t pitch, const int32_t* pairs, int64_t taps,
                 int64_t bytes, uint8_t* to) {
    for (int64_t i = 0; i < bytes; i += LANES) {
        Sums sums;
        for (int64_t t = 0; t < taps; t += 2) {
            const uint8_t* from = rows + t * pitch + i;
            __m128i two = _mm_unpacklo_epi8(eight(from), eight(from + pitch));
            sums.add(_mm256_cvtepu8_epi16(two), _mm256_set1_epi32(pairs[t]),
                     _mm256_set1_epi32(pairs[t + 1]));
        }
        int64_t result = _mm_cvtsi128_si64(sums.rounded());
        if (bytes - i >= LANES)
            memcpy(to + i, &result, LANES);
        else
            memcpy(to + i, &result, bytes - i);
    }
}

// image (·, width, 4) to square (size, size, 3).
extern "C" void resample(const uint8_t* image, int64_t width, const int32_t* first_x,
                         const int32_t* pairs_x, int64_t taps_x, const int32_t* first_y,
                         const int32_t* pairs_y, int64_t taps_y, int64_t size, uint8_t* square) {
    const int64_t top = first_y[0], bottom = first_y[size - 1] + taps_y;
    // Whole vectors, and room for a result more and its fourth byte.
    const int64_t pitch = (3 * (size + 1) + 1 + LANES - 1) / LANES * LANES;
    std::vector<uint8_t> narrow(pitch * (bottom - top));
    for (int64_t row = top; row < bottom; row++)
        across(image + 4 * width * row, first_x, pairs_x, taps_x, size,
               narrow.data() + pitch * (row - top));
    for (int64_t y = 0; y < size; y++)
        down(narrow.data() + pitch * (first_y[y] - top), pitch, pairs_y + y * taps_y, taps_y,
             3 * size, square + 3 * size * y);
}
