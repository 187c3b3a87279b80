// The cpu device's ops on single numbers: ReLU's gradient, SGD, dropout, crop and mirror.
//
// Arithmetic  Every operation is rounded by itself and in the order of the NumPy form, so that the
//             bits are the same. Nothing here depends on where a range of items begins or ends.
#include "native.h"

// dy ← dy where y > 0, else 0, also of NaN; items: numbers.
template <typename T>
EXPORT void relu_backward(i64 start, i64 stop, const T* __restrict__ y, T* __restrict__ dy) {
    for (i64 i = start; i < stop; i++) dy[i] = y[i] > 0 ? dy[i] : T(0);
}
INSTANTIATE(relu_backward<float>, relu_backward<double>);

// --- SGD --------------------------------------------------------------------------------------

// The parameters, one after another; see Segments in ops/sgd.py.
struct Solver {
    double momentum, decay;
    int segments;
};

// To the nearest bfloat16, ties to even; any NaN to the one with a single bit of fraction.
static inline bf16 narrowed(float x) {
    u32 bits;
    memcpy(&bits, &x, sizeof(bits));
    const u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {u16(x == x ? rounded : (bits >> 16 & 0x8000) | 0x7fc0)};
}

// g: a row of partial sums of the gradient for each slice, `apart` numbers from one to the next.
template <typename T>
static void update(i64 count, T* __restrict__ w, const T* __restrict__ g, i64 apart, int slices,
                   T* __restrict__ v, T rate, T momentum, T decay, bf16* __restrict__ copy) {
    constexpr int BLOCK = 1024;  // of sums, in the level-1 cache
    T sums[BLOCK];
    for (i64 from = 0; from < count; from += BLOCK) {
        const i64 size = std::min<i64>(BLOCK, count - from);
        const T* __restrict__ gradient = g + from;
        if (slices > 1) {
            for (i64 i = 0; i < size; i++) sums[i] = gradient[i];
            for (int s = 1; s < slices; s++)
                for (i64 i = 0; i < size; i++) sums[i] += gradient[s * apart + i];
            gradient = sums;
        }
        T *__restrict__ weights = w + from, *__restrict__ speeds = v + from;
        for (i64 i = 0; i < size; i++) {
            const T step = (weights[i] * decay + gradient[i]) * rate;
            speeds[i] = speeds[i] * momentum + step;
            weights[i] -= speeds[i];
        }
        if (copy)
            for (i64 i = 0; i < size; i++) copy[from + i] = narrowed((float)weights[i]);
    }
}

// Items: numbers of w. lr: one. places: where each segment's gradient begins in g.
template <typename T>
EXPORT void sgd_update(i64 start, i64 stop, T* w, const T* g, T* v, bf16* copy, const double* lr,
                       const Solver* solver, const i64* starts, const i64* places,
                       const int* slices, const double* rates, const double* decays) {
    for (int s = 0; s < solver->segments; s++) {
        const i64 first = std::max(start, starts[s]), last = std::min(stop, starts[s + 1]);
        if (first >= last) continue;
        const T rate = *lr * rates[s], decay = solver->decay * decays[s];
        update<T>(last - first, w + first, g + places[s] + first - starts[s],
                  starts[s + 1] - starts[s], slices[s], v + first, rate, solver->momentum, decay,
                  copy ? copy + first : nullptr);
    }
}
INSTANTIATE(sgd_update<float>, sgd_update<double>);

// --- dropout ----------------------------------------------------------------------------------

// As philox.py: words 4·i to 4·i + 3 belong to the counter (i, stream, step).
struct Mask {
    u64 seed;
    u32 stream, threshold;
    double factor;
};
constexpr int COUNTERS = 32, WORDS = 4 * COUNTERS;

// Philox4x32-10 of COUNTERS neighbouring counters.
static void philox_words(const Mask& mask, u64 step, u32 first, u32* __restrict__ words) {
    u32 a[COUNTERS], b[COUNTERS], c[COUNTERS], d[COUNTERS];
    for (int i = 0; i < COUNTERS; i++) {
        a[i] = first + i, b[i] = mask.stream;
        c[i] = (u32)step, d[i] = (u32)(step >> 32);
    }
    u32 low = (u32)mask.seed, high = (u32)(mask.seed >> 32);
    for (int round = 0; round < 10; round++, low += 0x9E3779B9, high += 0xBB67AE85)
        for (int i = 0; i < COUNTERS; i++) {
            const u64 left = (u64)a[i] * 0xD2511F53, right = (u64)c[i] * 0xCD9E8D57;
            a[i] = (u32)(right >> 32) ^ b[i] ^ low, b[i] = (u32)right;
            c[i] = (u32)(left >> 32) ^ d[i] ^ high, d[i] = (u32)left;
        }
    for (int i = 0; i < COUNTERS; i++) {
        words[4 * i] = a[i], words[4 * i + 1] = b[i];
        words[4 * i + 2] = c[i], words[4 * i + 3] = d[i];
    }
}

// Items: WORDS numbers each of x and y, which may be the same; `count` numbers in all. step: one.
template <typename T>
EXPORT void dropout(i64 start, i64 stop, const T* x, T* y, const Mask* mask, const i64* step,
                    i64 count) {
    const T factor = mask->factor;
    const u32 threshold = mask->threshold;
    u32 words[WORDS];
    T factors[WORDS];
    for (i64 item = start; item < stop; item++) {
        philox_words(*mask, *step, (u32)(item * COUNTERS), words);
        for (int i = 0; i < WORDS; i++) factors[i] = words[i] >= threshold ? factor : T(0);
        const i64 from = item * WORDS;
        const int size = (int)std::min<i64>(WORDS, count - from);
        for (int i = 0; i < size; i++) y[from + i] = x[from + i] * factors[i];
    }
}
INSTANTIATE(dropout<float>, dropout<double>);

// --- crop and mirror --------------------------------------------------------------------------

struct Crops {
    double scale;
    int height, width, h, w;  // of the images, and of the crops
};

// Items: crops. images (M, height, width, 3), mean (height, width, 3), y (N, h, w, 3).
template <typename T>
EXPORT void crop_mirror(i64 start, i64 stop, const u8* images, const float* mean, T* y,
                        const i64* rows, const i64* top, const i64* left, const bool* mirror,
                        const Crops* crops) {
    const int across = 3 * crops->w;
    const T scale = crops->scale;
    T* memory = kept<T, 0>(across);
    for (i64 n = start; n < stop; n++)
        for (int row = 0; row < crops->h; row++) {
            const i64 at = 3 * ((top[n] + row) * crops->width + left[n]);
            const i64 image = 3 * rows[n] * crops->height * crops->width;
            const u8* __restrict__ pixels = images + image + at;
            const float* __restrict__ middle = mean + at;
            T* __restrict__ to = y + (n * crops->h + row) * across;
            T* __restrict__ line = mirror[n] ? memory : to;
            for (int i = 0; i < across; i++) line[i] = ((T)pixels[i] - (T)middle[i]) * scale;
            if (mirror[n])
                for (int i = 0; i < across; i += 3)
                    for (int colour = 0; colour < 3; colour++)
                        to[across - 3 - i + colour] = line[i + colour];
        }
}
INSTANTIATE(crop_mirror<float>, crop_mirror<double>);
